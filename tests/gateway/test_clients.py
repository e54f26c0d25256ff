"""NVIDIA's own client in its four flavours, unmodified, on a whole fleet."""

from __future__ import annotations

import contextlib
import os

import numpy
import pytest
from tritonclient.utils import InferenceServerException, shared_memory

from tests.gateway.clients import FLAVOURS, Client, one, rows
from tests.gateway.models import every_kind, published
from tests.serving import serving, until

pytestmark = [pytest.mark.triton, pytest.mark.envoy]
WORDS = numpy.array([["ab", "grüße", ""]], numpy.object_)
UPPER = [[b"AB", "grüße".encode().upper(), b""]]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with serving(every_kind(tmp_path_factory.mktemp("fleet"))) as fleet:
        yield fleet


@pytest.fixture(scope="module", params=FLAVOURS)
def client(served, request):
    grpc = request.param.startswith("grpc")
    client = Client(request.param, served.grpc_address if grpc else served.address)
    yield client
    client.close()


@pytest.fixture(scope="module")
def direct(served, client):
    """The same client of the tritonserver itself."""
    endpoint = served.endpoint("local")
    client = Client(client.flavour, endpoint.grpc if client.is_grpc else endpoint.http)
    yield client
    client.close()


@pytest.fixture(params=["cold", "warm"])
def residency(served, request):
    """Has a model out of memory, or in it and Envoy knowing."""

    def so(*models):
        for model in models:
            if request.param == "warm":
                warm(served, model)
            else:
                assert served.call("POST", f"/v2/repository/models/{model}/unload")[0] == 200
        return request.param

    return so


def warm(served, model):
    """Has a model in memory, and Envoy knowing of it."""
    assert served.call("POST", f"/v2/repository/models/{model}/load")[0] == 200
    until(lambda: model in published(served))


# -- inference -------------------------------------------------------------------------------------


@pytest.mark.parametrize("binary", [True, False])
def test_numbers_as_bytes_and_as_text(client, residency, binary):
    residency("adder")
    result = client.infer(
        "adder",
        [client.tensor("x", rows(1, 5), binary_data=binary)],
        outputs=[client.output("y", binary_data=binary)],
        request_id="its own",
    )
    assert result.as_numpy("y").tolist() == [[2, 3, 4, 5], [6, 3, 4, 5]]
    assert client.id_of(result) == "its own"


@pytest.mark.parametrize("binary", [True, False])
def test_words_and_only_the_outputs_that_were_asked_for(client, residency, binary):
    residency("words")
    tensors = [client.tensor("x", WORDS, binary_data=binary)]
    result = client.infer("words", tensors, outputs=[client.output("upper", binary_data=binary)])
    upper = [
        word if isinstance(word, bytes) else word.encode() for word in result.as_numpy("upper").flat
    ]
    assert [upper] == UPPER
    assert result.as_numpy("length") is None
    whole = client.infer("words", tensors)
    assert whole.as_numpy("length").tolist() == [[2, 7, 0]]


def test_classes(client, residency):
    residency("adder")
    outputs = [client.output("y", class_count=2)]
    result = client.infer("adder", [client.tensor("x", rows(9))], outputs=outputs)
    assert [word.decode().split(":")[1] for word in result.as_numpy("y").flat] == ["0", "3"]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_and_answers(client, residency, algorithm):
    residency("adder")
    large = numpy.repeat(rows(1), 8, axis=0)
    names = ["compression_algorithm"]
    if not client.is_grpc:
        names = ["request_compression_algorithm", "response_compression_algorithm"]
    options = dict.fromkeys(names, algorithm)
    result = client.infer("adder", [client.tensor("x", large)], **options)
    assert (result.as_numpy("y") == large + 1).all()


def test_many_requests_at_once(client, residency):
    residency("adder")
    answers = client.infer_together(
        "adder", [[client.tensor("x", rows(first))] for first in range(20)]
    )
    assert [answer.as_numpy("y")[0, 0] for answer in answers] == list(range(1, 21))


def test_an_ensemble(client, residency):
    residency("both", "adder", "other")
    result = client.infer("both", [client.tensor("x", rows(1))])
    assert result.as_numpy("y").tolist() == [[4, 5, 6, 7]]


def test_an_explicit_version(client, residency):
    residency("adder")
    result = client.infer("adder", [client.tensor("x", rows(1))], model_version="1")
    assert result.as_numpy("y").tolist() == [[2, 3, 4, 5]]
    assert result.get_response() is not None


def test_priority_timeout_and_parameters_reach_triton(client, residency):
    residency("words")
    result = client.infer(
        "words",
        [client.tensor("x", WORDS)],
        priority=1,
        timeout=30_000_000,
        parameters={"of its own": 7},
        headers={"x-own": "1"},
    )
    assert result.as_numpy("length").tolist() == [[2, 7, 0]]


def test_what_is_told_beside_the_answer_is_unchanged_on_a_warm_model(served, client, direct):
    warm(served, "adder")
    through, own = (
        one_of.infer("adder", [one_of.tensor("x", rows(1))], request_id="9").get_response()
        for one_of in (client, direct)
    )
    assert through == own


# -- deadlines -------------------------------------------------------------------------------------


def test_a_wait_for_a_cold_model_ends_with_the_requests_own_timeout(served, client):
    # Room for a third adder has to be made, and a load is never done within a microsecond.
    assert served.call("POST", "/v2/repository/models/third/unload")[0] == 200
    code, text = client.refusal("third", [client.tensor("x", rows(1))], timeout=1)
    assert code in ("504", "StatusCode.DEADLINE_EXCEEDED"), text
    until(lambda: served.brain.desk.counters.held == 0)
    assert client.infer("third", [client.tensor("x", rows(1))]) is not None


def test_a_client_that_waits_no_longer_is_forgotten(served, client):
    warm(served, "slow")
    with impatient(served, client) as hasty:
        with pytest.raises((InferenceServerException, TimeoutError, OSError)):
            hasty("slow", [client.tensor("x", one(2500))])
    until(lambda: served.brain.desk.counters.held == 0)
    assert client.infer("slow", [client.tensor("x", one(0))]).as_numpy("y").tolist() == [0]


@contextlib.contextmanager
def impatient(served, client):
    """The inference of a client that gives up after half a second."""
    if client.is_grpc:
        yield lambda *arguments: client.infer(*arguments, client_timeout=0.5)
        return
    name = "conn_timeout" if client.flavour == "http.aio" else "network_timeout"
    hasty = Client(client.flavour, served.address, **{name: 0.5})
    yield hasty.infer
    hasty.close()


# -- questions -------------------------------------------------------------------------------------


def test_what_is_asked_of_the_server(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    told = client.told("get_server_metadata")
    assert told["name"] == "tritonfleet"
    assert {"binary_tensor_data", "system_shared_memory", "model_repository"} <= set(
        told["extensions"]
    )


def test_what_is_asked_of_a_model_is_what_triton_tells(served, client, direct, residency):
    residency("adder")
    through = [client.told(name, "adder") for name in ("get_model_metadata", "get_model_config")]
    assert client.is_model_ready("adder")
    assert client.is_model_ready("adder", "1")
    assert not client.is_model_ready("adder", "9")
    warm(served, "adder")
    own = [direct.told(name, "adder") for name in ("get_model_metadata", "get_model_config")]
    assert through[0] == own[0]
    config, owns = (one.get("config", one) for one in (through[1], own[1]))
    for key in ("name", "backend", "max_batch_size", "input", "output"):
        assert config[key] == owns[key]


def test_statistics(served, client, direct, residency):
    state = residency("adder")
    before = client.told("get_inference_statistics", "adder")["model_stats"]
    assert [(one["name"], one["version"]) for one in before] == [("adder", "1")]
    client.infer("adder", [client.tensor("x", rows(1))])
    told = client.told("get_inference_statistics", "adder")
    assert told == direct.told("get_inference_statistics", "adder")
    count = int(told["model_stats"][0]["inference_stats"]["success"]["count"])
    assert count == 1 if state == "cold" else count >= 1


def test_residency_is_driven_by_the_repository_extension(served, client):
    def state():
        index = client.told("get_model_repository_index")
        return {one["name"]: one.get("state") for one in index_of(index)}["words"]

    client.load_model("words")
    assert (state(), served.states()["words"]) == ("READY", "READY")
    client.unload_model("words")
    assert (state(), served.states()["words"]) == ("UNAVAILABLE", "UNAVAILABLE")
    with pytest.raises(InferenceServerException, match="unknown model: 'nobody'"):
        client.load_model("nobody")


def index_of(answer):
    return answer["models"] if isinstance(answer, dict) else answer


def test_trace_and_log_settings(served, client, direct):
    warm(served, "adder")
    endpoint = served.endpoint("local")
    secret = endpoint.admin_grpc_headers if client.is_grpc else endpoint.admin_http_headers
    for arguments in ((), ("adder",)):
        own = direct.told("get_trace_settings", *arguments, headers=secret)
        assert client.told("get_trace_settings", *arguments) == own
    changed = client.told("update_trace_settings", "adder", {"trace_rate": "7"})
    assert changed == direct.told("get_trace_settings", "adder", headers=secret)
    assert "7" in str(changed)
    client.update_trace_settings("adder", {"trace_rate": None})
    client.update_log_settings({"log_info": False})
    own = direct.told("get_log_settings", headers=secret)
    assert client.told("get_log_settings") == own
    assert "True" not in str(own.get("log_info", own.get("settings", {}).get("log_info")))
    client.update_log_settings({"log_info": True})


# -- shared memory ---------------------------------------------------------------------------------


@pytest.fixture
def regions():
    """Memory of two tensors that a client shares with Triton."""
    with contextlib.ExitStack() as stack:

        def made(name):
            key = f"/tritonfleet_test_{os.getpid()}_{name}"
            region = shared_memory.create_shared_memory_region(name, key, 16)
            stack.callback(shared_memory.destroy_shared_memory_region, region)
            return region, key

        yield made("given"), made("taken")


def test_tensors_in_shared_memory(client, residency, regions):
    residency("adder")
    (given, given_key), (taken, taken_key) = regions
    shared_memory.set_shared_memory_region(given, [rows(1)])
    client.register_system_shared_memory("given", given_key, 16)
    client.register_system_shared_memory("taken", taken_key, 16)
    tensor, output = client.empty_tensor("x", rows(1)), client.output("y")
    tensor.set_shared_memory("given", 16)
    output.set_shared_memory("taken", 16)
    client.infer("adder", [tensor], outputs=[output])
    answer = shared_memory.get_contents_as_numpy(taken, numpy.float32, [1, 4])
    assert answer.tolist() == [[2, 3, 4, 5]]
    assert "given" in str(client.told("get_system_shared_memory_status"))
    client.unregister_system_shared_memory("given")
    assert "given" not in str(client.told("get_system_shared_memory_status"))
    client.unregister_system_shared_memory()
    assert "taken" not in str(client.told("get_system_shared_memory_status"))


# -- errors ----------------------------------------------------------------------------------------


def mistakes(client):
    """Requests that Triton refuses, each in its own way."""
    good = client.tensor("x", rows(1))
    narrow = client.tensor("x", rows(1)[:, :3])
    yield "adder", [narrow], {}
    yield "adder", [client.tensor("x", rows(1).astype(numpy.int32))], {}
    yield "adder", [client.tensor("z", rows(1))], {}
    yield "adder", [], {}
    yield "adder", [good], {"outputs": [client.output("zz")]}
    yield "adder", [client.tensor("x", numpy.repeat(rows(1), 9, axis=0))], {"request_id": "r"}
    yield "adder", [good], {"model_version": "9"}
    yield "counter", [client.tensor("x", one(1))], {}
    yield "totals", [client.tensor("x", one(1))], {"sequence_id": 77}
    yield "totals", [client.tensor("x", one(1))], {}
    yield "refuser", [client.tensor("x", one(1))], {}
    yield "refuser", [client.tensor("x", one(2))], {}
    yield "refuser", [client.tensor("x", one(3))], {}


@pytest.mark.parametrize("number", range(13))
def test_tritons_refusals_come_in_its_own_words_and_codes(
    served, client, direct, residency, number
):
    models = [model for model, _, _ in mistakes(client)]
    residency(models[number])
    model, inputs, options = list(mistakes(client))[number]
    through = client.refusal(model, inputs, **options)
    warm(served, model)
    model, inputs, options = list(mistakes(direct))[number]
    assert through == direct.refusal(model, inputs, **options)
