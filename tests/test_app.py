"""A whole fleet on a real tritonserver, through its own port, as any client sees it."""

from __future__ import annotations

import os
import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy
import pytest
import tritonclient.http as tritonhttp
from tritonclient.utils import InferenceServerException

from tests.serving import serving, until
from tests.tiny import adder_fleet, write_ensemble
from tritonfleet.errors import PortTaken
from tritonfleet.launchers.native import choose_backend
from tritonfleet.server.memory import model_processes

pytestmark = [pytest.mark.triton, pytest.mark.envoy]

ENSEMBLE = """\
  both:
    source: {kind: ensemble, steps: [{model: one}, {model: two}], outputs: [y]}
"""


NATIVE = choose_backend("auto", os.environ)
BACKENDS = [
    "python",
    pytest.param("native", marks=pytest.mark.skipif(NATIVE.native is None, reason=str(NATIVE))),
]


@pytest.fixture(scope="module", params=BACKENDS)
def served(tmp_path_factory, request):
    """Four adders of which two fit, an ensemble, a corrupt model and one that is too large."""
    path = tmp_path_factory.mktemp("fleet")
    sizes = {"one": "40MiB", "two": "40MiB", "three": "40MiB", "four": "40MiB", "broken": "1MiB"}
    spec = adder_fleet(path, sizes, extra=ENSEMBLE)
    large = spec.models["one"].model_copy(
        update={"residency": spec.models["one"].residency.model_copy(update={"footprint": 2**40})}
    )
    models = {name: model for name, model in spec.models.items() if name != "template_"}
    settings = spec.settings.model_copy(update={"onnxruntime_backend": request.param})
    spec = spec.model_copy(update={"models": {**models, "large": large}, "settings": settings})
    write_ensemble(path / "repository", "both", "one", "two")
    (path / "repository" / "broken" / "1" / "model.onnx").write_bytes(b"no model at all")
    with serving(spec) as fleet:
        yield fleet


def is_native(served):
    return served.fleet.settings.onnxruntime_backend == "native"


# -- loading on demand -----------------------------------------------------------------------


def test_a_cold_model_answers_and_says_that_it_was_cold(served):
    served.call("POST", "/v2/repository/models/three/unload")
    status, answer, headers = served.add("three")
    assert status == 200
    assert answer["outputs"][0]["data"] == [4, 5, 6, 7]
    assert headers["tritonfleet-residency"] == "cold"
    assert served.add("three")[2]["tritonfleet-residency"] == "warm"


def test_every_model_answers_although_they_do_not_all_fit(served):
    for name, amount in (("one", 1), ("two", 2), ("three", 3), ("four", 4)):
        status, answer, _ = served.add(name)
        assert (status, answer["outputs"][0]["data"][0]) == (200, 1 + amount)
    ready = [name for name, state in served.states().items() if state == "READY"]
    assert len(ready) <= 2


def test_an_ensemble_brings_its_members_along(served):
    status, answer, _ = served.add("both")
    assert (status, answer["outputs"][0]["data"]) == (200, [4, 5, 6, 7])
    assert served.states()["one"] == served.states()["two"] == "READY"


def test_many_clients_over_more_models_than_fit_see_no_error_and_memory_stays_within(served):
    names, failures, over = ["one", "two", "three", "four", "both"], [], []
    stop = threading.Event()

    def watch():
        while not stop.wait(0.02):
            for server in served.status()["servers"]:
                if server["occupied_bytes"] > server["capacity_bytes"]:
                    over.append(server)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as clients:
        for status, answer, _ in clients.map(served.add, names * 8):
            if status != 200:
                failures.append(answer)
    stop.set()
    watcher.join()
    assert not failures
    assert not over


def test_a_client_that_gives_up_is_forgotten_and_the_load_goes_on(served):
    for name in ("four", "one"):  # so that there is room: a load that has begun goes on
        served.call("POST", f"/v2/repository/models/{name}/unload")
    with socket.create_connection(served.address.split(":")) as client:
        body = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
        head = (
            f"POST /v2/models/four/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        client.sendall(head.encode() + body)
        until(lambda: served.controller.ledger.phase("four"))
    until(lambda: served.states()["four"] == "READY")
    four = next(model for model in served.status()["models"] if model["name"] == "four")
    assert (four["waiting"], four["in_use"]) == (0, 0)


def test_a_model_that_leaves_and_comes_straight_back_is_never_taken_for_lost(served, caplog):
    controller = served.controller

    async def come_and_go():
        for _ in range(20 if is_native(served) else 3):
            async with controller.lease("one"):
                await controller._observe("local")
            assert controller.ledger.ready_on("one"), "taken for lost"
            await controller.unload("one")

    served.run(come_and_go(), timeout=120)
    assert served.add("one")[0] == 200
    assert "lost models" not in caplog.text


def test_a_cold_model_whose_first_caller_is_refused_is_proved_all_the_same(served):
    served.call("POST", "/v2/repository/models/one/unload")
    assert served.add("one", shape=[1, 5], data=[0] * 5)[0] == 400
    until(lambda: served.controller.ledger.is_proved("one"))
    _, answer, _ = served.call("GET", "/v2/models/one/stats")
    assert answer["model_stats"][0]["inference_stats"]["success"]["count"] == 1


def test_a_cold_request_is_the_only_inference_that_its_load_costs(served):
    served.call("POST", "/v2/repository/models/one/unload")
    assert served.add("one")[0] == 200
    _, answer, _ = served.call("GET", "/v2/models/one/stats")
    assert answer["model_stats"][0]["inference_stats"]["success"]["count"] == 1


def test_what_native_models_tell_is_what_they_are_charged(served):
    if not is_native(served):
        pytest.skip("models in processes tell nothing")
    assert served.add("one")[0] == 200
    events = served.brain._events["local"]
    told = until(lambda: events.bytes_of("one"))
    assert 0 < told < 40 * 2**20
    assert served.controller.ledger.footprint("one") == 40 * 2**20  # as is declared
    served.call("POST", "/v2/repository/models/one/unload")
    assert events.bytes_of("one") is None


# -- bad input ---------------------------------------------------------------------------------


def test_an_unknown_model_is_404_with_a_suggestion(served):
    status, answer, _ = served.add("thre")
    assert status == 404
    assert "Did you mean 'three'?" in answer["error"]


def test_a_model_larger_than_the_capacity_is_507_at_once(served):
    status, answer, _ = served.add("large")
    assert status == 507
    assert "needs 1.0 TiB; the largest server has 100 MiB" in answer["error"]


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        ({"shape": [1, 3], "data": [1, 2, 3]}, "unexpected shape"),
        ({"datatype": "INT32"}, "data-type"),
        ({"name": "z"}, "unexpected inference input 'z'"),
    ],
)
def test_tritons_own_refusals_pass_through_untouched(served, tensor, message):
    status, answer, _ = served.add("one", **tensor)
    assert status == 400
    assert message in answer["error"]


def test_a_corrupt_model_is_refused_with_its_reason_and_the_others_serve_on(served):
    status, answer, headers = served.add("broken")
    assert status == 503
    assert "broken failed to load" in answer["error"]
    assert "tritonfleet build broken" in answer["error"]
    assert int(headers["Retry-After"]) >= 1
    assert served.call("GET", "/v2/models/broken/ready")[0] == 400
    assert served.add("one")[0] == 200


def test_a_load_with_parameters_is_refused_because_it_would_go_behind_the_budget(served):
    body = {"parameters": {"config": "{}"}}
    status, answer, _ = served.call("POST", "/v2/repository/models/one/load", body)
    assert status == 400
    assert "parameters are not taken: config" in answer["error"]


def test_malformed_json_for_the_repository_is_400(served):
    status, answer, _ = served.call("POST", "/v2/repository/index", ["no object"])
    assert status == 400
    assert "must be a JSON object" in answer["error"]


def test_an_unknown_path_is_answered_in_tritons_form(served):
    status, answer, _ = served.call("GET", "/v2/nothing")
    assert status == 404
    assert "Not Found" in answer["error"]


# -- NVIDIA's own client, unmodified -------------------------------------------------------------


@pytest.fixture
def client(served):
    with tritonhttp.InferenceServerClient(served.address, network_timeout=60) as client:
        yield client


def test_tritonclient_infers_with_binary_tensors_on_a_cold_model(served, client):
    served.call("POST", "/v2/repository/models/two/unload")
    tensor = tritonhttp.InferInput("x", [2, 4], "FP32")
    tensor.set_data_from_numpy(numpy.arange(8, dtype=numpy.float32).reshape(2, 4))
    wanted = tritonhttp.InferRequestedOutput("y", binary_data=True)
    for compression in (None, "gzip", "deflate"):
        result = client.infer(
            "two",
            [tensor],
            outputs=[wanted],
            request_compression_algorithm=compression,
            response_compression_algorithm=compression,
        )
        assert (result.as_numpy("y") == tensor_plus_two()).all()


def tensor_plus_two():
    return numpy.arange(8, dtype=numpy.float32).reshape(2, 4) + 2


def test_tritonclient_drives_our_residency(client):
    client.load_model("one")
    assert client.is_model_ready("one")
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index["one"] == "READY"
    client.unload_model("one")
    index = {entry["name"]: entry["state"] for entry in client.get_model_repository_index()}
    assert index["one"] == "UNAVAILABLE"


def test_tritonclient_sees_server_and_statistics(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata()["name"] == "tritonfleet"
    client.load_model("one")
    names = [entry["name"] for entry in client.get_inference_statistics()["model_stats"]]
    assert "one" in names


def test_what_we_say_of_a_cold_model_is_what_triton_says_of_a_warm_one(served, client):
    client.unload_model("four")
    cold = client.get_model_metadata("four"), client.get_model_config("four")
    cold_statistics = client.get_inference_statistics("four")["model_stats"][0]
    client.load_model("four")
    warm = client.get_model_metadata("four"), client.get_model_config("four")
    warm_statistics = client.get_inference_statistics("four")["model_stats"][0]
    assert cold[0] == warm[0]
    for key in ("name", "max_batch_size", "input", "output", "backend"):
        assert cold[1][key] == warm[1][key]
    batching = "dynamic_batching"
    assert cold[1][batching]["max_queue_delay_microseconds"] == 100
    assert (
        cold[1][batching]["max_queue_delay_microseconds"]
        == (warm[1][batching]["max_queue_delay_microseconds"])
    )
    assert set(cold_statistics["inference_stats"]) == set(warm_statistics["inference_stats"])


def test_tritonclient_gets_our_errors_as_its_own(client):
    with pytest.raises(InferenceServerException, match="unknown model: 'nope'"):
        client.load_model("nope")


# -- pins ----------------------------------------------------------------------------------------


def test_a_pinned_model_outlives_the_demand_for_others(served):
    assert served.call("POST", "/v1/models/one/pin", control=True)[0] == 200
    until(lambda: served.states()["one"] == "READY")
    for name in ("two", "three", "four", "two", "three"):
        assert served.add(name)[0] == 200
        assert served.states()["one"] == "READY"
    status, answer, _ = served.call("POST", "/v1/models/one/unload", control=True)
    assert status == 409
    assert "unpin one" in answer["error"]
    assert served.call("POST", "/v1/models/one/unpin", control=True)[0] == 200


def test_decisions_are_told_with_who_left_and_who_stayed(served):
    for name in ("one", "two", "three"):
        served.add(name)
    _, decisions, _ = served.call("GET", "/v1/models/three/decisions", control=True)
    assert any(decision["model"] == "three" and decision["evicted"] for decision in decisions)


def test_python_callers_share_the_same_path(served):
    async def use():
        async with served.controller.lease("three") as lease:
            view = next(
                view for view in served.controller.ledger.residents(0) if view.model == "three"
            )
            return lease.server, view.leases

    assert served.run(use()) == ("local", 1)


# -- faults --------------------------------------------------------------------------------------


def test_a_model_whose_process_dies_serves_again_and_the_others_never_stop(served):
    if is_native(served):
        pytest.skip("its models have no process of their own")
    assert served.add("one")[0] == served.add("two")[0] == 200
    pid = served.endpoint("local").pid
    until(lambda: "two" in served.controller._with_process)
    (process,) = model_processes(pid, "two")
    os.kill(process, signal.SIGKILL)
    until(lambda: served.add("two")[0] == 200, timeout=60)
    assert served.add("one")[0] == 200
    assert served.endpoint("local").pid == pid


def test_a_killed_tritonserver_costs_the_requests_in_it_and_comes_back_with_its_models(served):
    assert served.add("three")[0] == 200
    pid = served.endpoint("local").pid
    assert model_processes(pid, "three") or is_native(served)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not served.controller.servers())
    status, answer, _ = served.add("three")
    assert status == 200, answer
    assert answer["outputs"][0]["data"] == [4, 5, 6, 7]
    assert served.endpoint("local").pid != pid


@pytest.mark.parametrize("key", ["http_port", "grpc_port", "control_port"])
def test_a_taken_port_is_named_with_the_flag_that_changes_it(tmp_path, key):
    spec = adder_fleet(tmp_path, {"one": "1MiB"})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = spec.settings.model_copy(update={key: port})
        with pytest.raises(PortTaken, match=f"--{key.replace('_', '-')}"):
            with serving(spec.model_copy(update={"settings": settings})):
                pass
