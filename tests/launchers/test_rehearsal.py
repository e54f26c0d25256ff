"""The first load of a fresh server, before anybody waits for one."""

from __future__ import annotations

import onnx
import pytest

from tritonfleet.launchers.rehearsal import IDENTITY, MODEL, rehearse
from tritonfleet.server.client import TritonClient
from tritonfleet.server.endpoint import Endpoint
from tritonfleet.server.events import ModelEvents


def test_the_model_is_what_it_is_said_to_be():
    model = onnx.load_from_string(IDENTITY)
    onnx.checker.check_model(model)
    assert [node.op_type for node in model.graph.node] == ["Identity"]


async def test_a_server_that_does_not_answer_is_no_harm(caplog, tmp_path):
    events = await ModelEvents.listen(tmp_path / "events")
    await rehearse("gpu0", Endpoint(http="127.0.0.1:9", grpc="127.0.0.1:9"), events)
    events.close()
    assert "could not rehearse" in caplog.text


@pytest.mark.triton
async def test_a_started_server_has_the_backend_open_and_no_trace_of_the_model(embedded):
    server = await embedded()
    if not server.events:
        pytest.skip("the native backend is not built here")
    log = server.log_file.read_text()
    assert "onnxruntime backend of tritonfleet" in log
    assert f"successfully loaded '{MODEL}'" in log
    client = TritonClient("gpu0", server.endpoint)
    try:
        assert MODEL not in await client.states()
    finally:
        await client.close()
