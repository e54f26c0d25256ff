from __future__ import annotations

import pytest

from tests.doctor.builders import GIB, container, embedded, needs
from tritonfleet.doctor.needs import bare_machine, needs_of
from tritonfleet.errors import InvalidSpec
from tritonfleet.settings import Settings
from tritonfleet.spec import FleetSpec

FLEET = {
    "servers": [{"name": "local", "capacity": "1GiB"}, {"name": "gpu0", "capacity": "8GiB"}],
    "models": {
        "one": {"source": {"kind": "onnx", "path": "m.onnx"}},
        "three": {
            "source": {"kind": "onnx", "path": "m.onnx"},
            "serving": {"instance_group": [{"count": 2}, {"count": 1}]},
        },
        "joined": {
            "source": {"kind": "ensemble", "steps": [{"model": "one"}], "outputs": ["y"]},
        },
    },
}


def test_instances_are_counted_and_ensembles_have_none():
    found = needs_of(FleetSpec.model_validate(FLEET), Settings())
    assert (found.instances, found.most_instances) == (4, 3)
    assert found.models == ("one", "three", "joined")


def test_settings_decide_how_servers_are_started():
    spec = FleetSpec.model_validate(FLEET)
    found = needs_of(spec, Settings(launcher="container", attach={"gpu0": "a:1,a:2"}))
    assert [server.name for server in found.containers] == ["local"]
    assert [server.name for server in found.launched_by("external")] == ["gpu0"]


def test_an_attached_server_that_the_fleet_lacks_is_refused():
    with pytest.raises(InvalidSpec, match="nobody"):
        needs_of(FleetSpec.model_validate(FLEET), Settings(attach={"nobody": "a:1,a:2"}))


def test_ports_that_are_picked_are_left_out():
    found = needs(container(ports={"http": 9000}), http_port=0, grpc_port=0)
    assert [(port.host, port.number) for port in found.ports] == [
        ("127.0.0.1", 8003),
        ("127.0.0.1", 9000),
    ]


def test_an_envoy_that_others_run_has_its_ports_already():
    found = needs(embedded(), attached_envoy=True)
    assert [port.purpose for port in found.ports] == ["control API"]


def test_models_of_servers_with_gpus_live_elsewhere():
    found = needs(embedded(), container("cpu"), container("gpu0", gpus=["0"]))
    assert [server.name for server in found.on_host_memory] == ["local", "cpu"]
    assert found.gpus == {"gpu0": ("0",)}


def test_an_engine_is_needed_for_servers_and_for_an_envoy_in_a_container():
    assert not needs(embedded()).uses_engine
    assert needs(container()).uses_engine
    assert needs(embedded(), envoy="image:envoyproxy/envoy:v1.40.0").uses_engine


def test_without_a_fleet_there_is_one_server_and_no_model():
    found = bare_machine(Settings(launcher="container"))
    assert [server.launcher for server in found.servers] == ["container"]
    assert found.models == ()
    assert found.servers[0].capacity < GIB
