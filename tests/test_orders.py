"""What supervisor and brain tell each other arrives as it was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tiny import adder_fleet
from tritonfleet.gateway.envoy.program import Program
from tritonfleet.orders import (
    ORDER,
    REPORT,
    WISH,
    Failed,
    Order,
    Ready,
    ServerBack,
    ServerLink,
    ServerLost,
    Stop,
)
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.spec import load_fleet

ENDPOINT = Endpoint("h:1", "h:2", "h:3", 4, "key", "hush")
LINK = ServerLink("local", ENDPOINT, Path("/run/events"))
CONFIGS = Path(__file__).parents[1] / "triton_configs"


def order(spec):
    return Order(spec, spec.settings, Path("/fleet"), (LINK,), Program("/bin/envoy", "1.40.0"))


@pytest.mark.parametrize("name", ["demo", "architectures"])
def test_an_order_arrives_whole(name):
    sent = order(load_fleet(CONFIGS / f"{name}.yaml"))
    assert ORDER.read(ORDER.write(sent)) == sent


def test_what_the_fleet_file_leaves_open_stays_open(tmp_path):
    spec = adder_fleet(tmp_path, {"one": "1MiB"}, extra="defaults: {residency: {priority: 2}}\n")
    arrived = ORDER.read(ORDER.write(order(spec))).spec
    assert arrived.residency("one").priority == 2
    assert arrived.models["one"].model_fields_set == spec.models["one"].model_fields_set


def test_every_message_is_one_line(tmp_path):
    assert ORDER.write(order(adder_fleet(tmp_path, {"one": "1MiB"}))).count(b"\n") == 1


@given(text=st.text(), grace_s=st.floats(0, 1e6))
def test_wishes_and_reports_arrive_as_they_were_sent(text, grace_s):
    for wish in (ServerLost(text), ServerBack(LINK), Stop(grace_s)):
        assert WISH.read(WISH.write(wish)) == wish
    for report in (Ready(7), Failed(text)):
        line = REPORT.write(report)
        assert line.endswith(b"\n")
        assert line.count(b"\n") == 1
        assert REPORT.read(line) == report


def test_no_secret_shows_where_a_link_is_printed():
    assert "hush" not in repr(LINK)
