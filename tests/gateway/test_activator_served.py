"""The HTTP front over a real fleet: what only Triton itself can confirm."""

from __future__ import annotations

import contextlib
import os
import signal

import numpy
import pytest
import tritonclient.http as tritonhttp
import tritonclient.utils.shared_memory as shared

from tests.serving import serving, until
from tests.tiny import adder_fleet

pytestmark = pytest.mark.triton
X = numpy.arange(4, dtype=numpy.float32).reshape(1, 4)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    spec = adder_fleet(tmp_path_factory.mktemp("fleet"), {"one": "40MiB", "two": "40MiB"})
    with serving(spec) as fleet:
        yield fleet


@pytest.fixture
def client(served):
    with tritonhttp.InferenceServerClient(served.address, network_timeout=60) as client:
        yield client


@contextlib.contextmanager
def region(name, size):
    """Memory of this machine, for as long as the block lasts."""
    handle = shared.create_shared_memory_region(
        name, f"/tritonfleet_test_{os.getpid()}_{name}", size
    )
    try:
        yield handle
    finally:
        shared.destroy_shared_memory_region(handle)


def test_log_settings_are_changed_and_read(client):
    for level in (1, 0):
        assert (
            client.update_log_settings({"log_verbose_level": level})["log_verbose_level"] == level
        )
        assert client.get_log_settings()["log_verbose_level"] == level


def test_trace_settings_of_all_and_of_a_model_in_memory(served, client):
    client.unload_model("two")
    client.load_model("one")
    client.update_trace_settings(settings={"trace_rate": "100"})
    client.update_trace_settings(model_name="one", settings={"trace_rate": "7"})
    rates = [client.get_trace_settings(name)["trace_rate"] for name in ("one", "two", "")]
    assert rates == ["7", "100", "100"]
    status, answer, _ = served.call("POST", "/v2/models/two/trace/setting", {"trace_rate": "7"})
    assert (status, "load it first" in answer["error"]) == (400, True)


def test_shared_memory_serves_every_model_and_outlives_the_server(served, client):
    with region("in", 16) as given, region("out", 16) as taken:
        shared.set_shared_memory_region(given, [X])
        for name in ("in", "out"):
            key = f"/tritonfleet_test_{os.getpid()}_{name}"
            client.register_system_shared_memory(name, key, 16)
        x, y = tritonhttp.InferInput("x", [1, 4], "FP32"), tritonhttp.InferRequestedOutput("y")
        x.set_shared_memory("in", 16)
        y.set_shared_memory("out", 16)
        for kill in (False, True):
            if kill:
                end_server(served)
            for model, amount in (("one", 1), ("two", 2)):
                client.infer(model, [x], outputs=[y])
                found = shared.get_contents_as_numpy(taken, numpy.float32, [1, 4])
                assert (found == X + amount).all()
        client.unregister_system_shared_memory()
        assert client.get_system_shared_memory_status() == []


def end_server(served):
    """The tritonserver is killed; returns when another one knows the regions."""
    pid = served.controller.endpoint("local").pid
    os.kill(pid, signal.SIGKILL)
    until(
        lambda: served.controller.servers() == () or served.controller.endpoint("local").pid != pid
    )
    path = "/v2/systemsharedmemory/status"
    until(lambda: len(served.call("GET", path)[1]) == 2)


def test_memory_of_a_gpu_is_tritons_to_refuse_where_there_is_none(served):
    body = {"raw_handle": {"b64": "AAAA"}, "device_id": 0, "byte_size": 3}
    status, answer, _ = served.call("POST", "/v2/cudasharedmemory/region/x/register", body)
    assert status == 400
    assert "raw_handle" in answer["error"]


def test_a_cold_model_is_ready_and_strictly_is_not(served, client):
    client.unload_model("one")
    status, _, headers = served.call("GET", "/v2/models/one/ready")
    assert (status, headers["tritonfleet-residency"]) == (200, "cold")
    assert served.call("GET", "/v2/models/one/ready?strict=true")[0] == 400
    client.load_model("one")
    status, _, headers = served.call("GET", "/v2/models/one/ready?strict=true")
    assert (status, headers["tritonfleet-residency"]) == (200, "warm")


def test_a_model_that_left_behind_our_back_answers_all_the_same(served, client):
    client.load_model("one")
    served.run(served.controller._servers["local"].client.unload("one"))
    status, answer, _ = served.add("one")
    assert (status, answer["outputs"][0]["data"]) == (200, [2, 3, 4, 5])
