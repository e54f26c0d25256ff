"""Streams, sequences, residency and second attempts on a whole fleet, as its clients meet them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import threading
import urllib.error
import urllib.request

import pytest
import tritonclient.grpc
import tritonclient.grpc.aio
from tritonclient.utils import InferenceServerException

from tests.gateway.clients import FLAVOURS, Client, grpc_tensor, one, rows
from tests.gateway.models import cancelled, every_kind, executions, published
from tests.serving import serving, until

pytestmark = [pytest.mark.triton, pytest.mark.envoy]
ADDERS = ("adder", "other", "third")


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fleet")


@pytest.fixture(scope="module")
def served(path):
    with serving(every_kind(path)) as fleet:
        yield fleet


@pytest.fixture(params=["grpc", "grpc.aio"])
def stream(served, request):
    """All answers to so many requests on one stream of NVIDIA's client."""
    asking = {"grpc": asked_by_threads, "grpc.aio": asked_by_tasks}[request.param]
    return lambda *requests, **options: asking(served.grpc_address, requests, **options)


def asked_by_threads(address, requests, **options):
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), **options)
        for request in requests:
            client.async_stream_infer(**request)
        client.stop_stream()  # once everything is answered
    return [told(*answers.get()) for _ in range(answers.qsize())]


def asked_by_tasks(address, requests, **options):
    async def asking():
        for request in requests:
            yield request

    async def answers():
        async with tritonclient.grpc.aio.InferenceServerClient(address) as client:
            return [told(*one) async for one in client.stream_infer(asking(), **options)]

    return asyncio.run(answers())


def told(result, error):
    if error is not None:
        return error.message()
    answer = result.as_numpy("y")
    if answer is None:
        return "the end"
    return int(answer.flat[0])


def asking(model, array, **options):
    return {"model_name": model, "inputs": [grpc_tensor("x", array)], **options}


def counting(count, **options):
    return asking("counter", one(count), **options)


def step(value, sequence, **options):
    """One part of a sequence that is summed up."""
    return asking("totals", one(value), sequence_id=sequence, **options)


def unload(served, *models):
    for model in models:
        assert served.call("POST", f"/v2/repository/models/{model}/unload")[0] == 200


def load(served, model):
    """Has a model in memory, and Envoy knowing of it."""
    assert served.call("POST", f"/v2/repository/models/{model}/load")[0] == 200
    until(lambda: model in published(served))


def activator_requests(served):
    return served.brain.desk.counters.requests


@contextlib.contextmanager
def pressure(served):
    """Clients that always want one more adder than fits, and what they were told wrong."""
    stop, wrong, rounds = threading.Event(), [], []

    def want():
        while not stop.is_set():
            for number, model in enumerate(ADDERS):
                status, answer, _ = served.add(model)
                if status != 200 or answer["outputs"][0]["data"][0] != 2 + number:
                    wrong.append(answer)
                rounds.append(model)

    thread = threading.Thread(target=want)
    thread.start()
    try:
        yield rounds
    finally:
        stop.set()
        thread.join()
    assert not wrong


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("residency", ["cold", "warm"])
def test_a_decoupled_model_answers_as_often_as_it_likes(served, stream, residency):
    unload(served, "counter") if residency == "cold" else load(served, "counter")
    assert stream(counting(0), counting(3), counting(1)) == [0, 1, 2, 0]
    assert stream(counting(200)) == list(range(200))
    until(lambda: in_use(served, "counter") == 0)


def in_use(served, model):
    return next(one["in_use"] for one in served.status()["models"] if one["name"] == model)


def test_the_end_of_the_answers_is_told_to_those_who_want_to_know(served):
    # Only this flavour knows how to ask for it.
    wanted = {"enable_empty_final_response": True}
    for count, answers in ((2, [0, 1, "the end"]), (0, ["the end"])):
        assert asked_by_threads(served.grpc_address, [counting(count, **wanted)]) == answers


@pytest.mark.parametrize("residency", ["cold", "warm"])
def test_several_models_on_one_stream(served, stream, residency):
    for model in ("adder", "slow", "counter"):
        unload(served, model) if residency == "cold" else load(served, model)
    answers = stream(
        asking("slow", one(100)),
        asking("adder", rows(5)),
        counting(2),
        asking("nobody", rows(1)),
        asking("adder", rows(1)[:, :3]),
        asking("adder", rows(7)),
    )
    texts = [answer for answer in answers if isinstance(answer, str)]
    numbers = [answer for answer in answers if not isinstance(answer, str)]
    assert "'nobody'" in texts[0]
    assert "unexpected shape" in texts[1]
    assert len(texts) == 2
    assert sorted(numbers) == [0, 0, 1, 6, 8]
    assert numbers.index(0) < numbers.index(6) < numbers.index(8)


def test_many_requests_for_more_models_than_fit_on_one_stream(stream):
    requests = [asking(model, rows(10)) for model in ADDERS * 3]
    assert stream(*requests) == [11, 12, 13] * 3


def test_a_model_that_leaves_behind_our_back_is_not_missed_on_a_stream(served, stream):
    load(served, "slow")
    unload_behind_our_back(served, "slow")
    assert stream(asking("slow", one(0)), asking("slow", one(0))) == [0, 0]


def test_a_stream_that_is_cancelled_stops_the_model_and_lets_it_go(served, path):
    with contextlib.suppress(FileNotFoundError):
        cancelled(path).unlink()

    async def cancel():
        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc_address) as client:

            async def requests():
                yield counting(100_000)
                await asyncio.Event().wait()

            answers = client.stream_infer(requests())
            await anext(aiter(answers))
            answers.cancel()

    asyncio.run(cancel())
    until(cancelled(path).exists)
    until(lambda: in_use(served, "counter") == 0)
    unload(served, "counter")
    assert served.states()["counter"] == "UNAVAILABLE"


def test_a_stream_at_rest_holds_no_model(served):
    async def rest():
        more = asyncio.Event()

        async def requests():
            yield asking("slow", one(0))
            await more.wait()
            yield asking("slow", one(0))

        async with tritonclient.grpc.aio.InferenceServerClient(served.grpc_address) as client:
            answers = aiter(client.stream_infer(requests()))
            first = told(*await anext(answers))
            await asyncio.to_thread(unload, served, "slow")
            more.set()
            return first, told(*await anext(answers))

    assert asyncio.run(rest()) == (0, 0)


def test_a_stream_may_last_no_longer_than_its_client_says(served):
    load(served, "counter")
    answers = queue.Queue()
    with tritonclient.grpc.InferenceServerClient(served.grpc_address) as client:
        client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=1.5)
        client.async_stream_infer(**counting(100_000))
        client.stop_stream()
    told = [answers.get() for _ in range(answers.qsize())]
    assert len(told) > 1
    assert told[-1][1].status() == "StatusCode.DEADLINE_EXCEEDED"
    until(lambda: in_use(served, "counter") == 0)


# -- Triton's own extension for text, over HTTP ----------------------------------------------------


@pytest.mark.parametrize("residency", ["cold", "warm"])
@pytest.mark.parametrize(
    ("model", "verb", "given", "status"),
    [
        ("words", "generate", {"id": "7", "x": ["ab"]}, 200),
        ("words", "generate", {"y": "unknown"}, 400),
        ("counter", "generate_stream", {"x": [3]}, 200),
    ],
)
def test_what_is_generated_is_what_triton_generates(served, model, verb, given, status, residency):
    def generated(address):
        request = urllib.request.Request(
            f"http://{address}/v2/models/{model}/{verb}", json.dumps(given).encode(), method="POST"
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.headers["Content-Type"], answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers["Content-Type"], error.read()

    unload(served, model) if residency == "cold" else load(served, model)
    through = generated(served.address)
    assert through == generated(served.endpoint("local").http)
    assert through[0] == status


# -- sequences -------------------------------------------------------------------------------------


def test_sequences_on_one_stream_keep_their_state_under_pressure(served, stream):
    parts = [step(1, 11, sequence_start=True), step(100, 12, sequence_start=True)]
    for _ in range(5):
        parts += [step(1, 11), asking("slow", one(150)), step(100, 12)]
    parts += [step(1, 11, sequence_end=True), step(100, 12, sequence_end=True)]
    with pressure(served) as rounds:
        answers = stream(*parts)
        until(lambda: len(rounds) > 6)
    assert [answer for answer in answers if 0 < answer < 100] == list(range(1, 8))
    assert [answer for answer in answers if answer >= 100] == list(range(100, 701, 100))


@pytest.mark.parametrize("residency", ["cold", "warm"])
def test_sequences_of_single_requests_keep_their_state_under_pressure(served, residency):
    unload(served, "totals") if residency == "cold" else load(served, "totals")
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(contextlib.closing(client_of(served, flavour)))
            for flavour in FLAVOURS
        ]
        totals = {}
        rounds = stack.enter_context(pressure(served))
        for number in range(5):
            seen = len(rounds)
            for sequence, client in enumerate(clients, 31):
                result = client.infer(
                    "totals",
                    [client.tensor("x", one(sequence))],
                    sequence_id=sequence,
                    sequence_start=number == 0,
                    sequence_end=number == 4,
                )
                totals.setdefault(sequence, []).append(int(result.as_numpy("y").flat[0]))
            until(lambda seen=seen: len(rounds) > seen + 1)
    assert totals == {
        sequence: [sequence * (number + 1) for number in range(5)] for sequence in range(31, 35)
    }


def test_a_part_of_a_sequence_that_was_never_begun_gets_tritons_refusal(stream):
    (answer,) = stream(step(1, 99))
    assert "must specify the START flag on the first request" in answer


# -- cold and warm ---------------------------------------------------------------------------------


def client_of(served, flavour):
    grpc = flavour.startswith("grpc")
    return Client(flavour, served.grpc_address if grpc else served.address)


@pytest.fixture(params=FLAVOURS)
def client(served, request):
    with contextlib.closing(client_of(served, request.param)) as client:
        yield client


def test_a_cold_model_is_ready_unless_asked_strictly(served, client):
    strict = {"headers": {"tritonfleet-strict": "true"}}
    unload(served, "words")
    assert client.is_model_ready("words")
    assert not client.is_model_ready("words", **strict)
    load(served, "words")
    assert client.is_model_ready("words", **strict)


def test_a_cold_model_says_so(served):
    pages = ["/v2/models/words", "/v2/models/words/ready", "/v2/models/words/config"]
    for residency, bring in (("cold", unload), ("warm", load)):
        bring(served, "words")
        for page in pages:
            with urllib.request.urlopen(served.gateway + page) as answer:
                assert answer.headers["tritonfleet-residency"] == residency


def test_a_cold_model_says_so_over_grpc(served):
    def residency():
        channel = tritonclient.grpc.grpc.insecure_channel(served.grpc_address)
        with channel:
            stub = tritonclient.grpc.service_pb2_grpc.GRPCInferenceServiceStub(channel)
            request = tritonclient.grpc.service_pb2.ModelMetadataRequest(name="words")
            _, call = stub.ModelMetadata.with_call(request)
            return dict(call.initial_metadata())["tritonfleet-residency"]

    unload(served, "words")
    assert residency() == "cold"
    load(served, "words")
    assert residency() == "warm"


def test_probes_of_grpc_are_answered(served):
    with tritonclient.grpc.grpc.insecure_channel(served.grpc_address) as channel:
        serving = b"\x08\x01"
        assert channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=10) == serving
        watch = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=10)
        assert next(watch) == serving
        watch.cancel()


def test_ids_of_requests_come_back(served):
    for bring in (unload, load):
        bring(served, "adder")
        body = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
        path, headers = "/v2/models/adder/infer", {"x-request-id": "its-own"}
        status, _, told = served.call("POST", path, {"inputs": [body]}, headers=headers)
        assert (status, told["x-request-id"]) == (200, "its-own")
        assert served.add("adder")[2]["x-request-id"]


# -- no Python on the way --------------------------------------------------------------------------


def test_no_request_to_a_warm_model_passes_through_python(served, client):
    load(served, "adder")

    def infer():
        client.infer("adder", [client.tensor("x", rows(1))])

    def passes_nobody():
        """Envoy is told of a model some milliseconds before it acts on that."""
        before = activator_requests(served)
        infer()
        return activator_requests(served) == before

    until(passes_nobody)
    before, ran = activator_requests(served), successes(served, "adder")
    for _ in range(100):
        infer()
    assert activator_requests(served) == before
    assert successes(served, "adder") == ran + 100


def successes(served, model):
    """How often Triton itself says that a model has run."""
    with contextlib.closing(Client("http", served.endpoint("local").http)) as triton:
        told = triton.get_inference_statistics(model)
    return told["model_stats"][0]["inference_stats"]["success"]["count"]


# -- once, and once only ---------------------------------------------------------------------------


@pytest.mark.parametrize("residency", ["cold", "warm"])
@pytest.mark.parametrize("kind", [1, 2, 3])
def test_a_model_that_refuses_in_tritons_codes_runs_once_for_each_request(
    served, client, path, kind, residency
):
    unload(served, "refuser") if residency == "cold" else load(served, "refuser")
    ran = runs(path)
    with pytest.raises(InferenceServerException):
        client.infer("refuser", [client.tensor("x", one(kind))])
    assert runs(path) == ran + 1


def runs(path):
    return len(executions(path).read_text()) if executions(path).exists() else 0


def unload_behind_our_back(served, model):
    """As somebody does who has the secret of the tritonserver."""
    endpoint = served.endpoint("local")
    with contextlib.closing(Client("http", endpoint.http)) as triton:
        triton.unload_model(model, headers=endpoint.admin_http_headers)
        until(lambda: not triton.is_model_ready(model))


@pytest.mark.parametrize("version", ["", "1"])
def test_a_model_that_leaves_behind_our_back_is_not_missed(served, client, version):
    def infer():
        tensor = client.tensor("x", rows(1))
        return client.infer("adder", [tensor], model_version=version).as_numpy("y").tolist()

    load(served, "adder")
    unload_behind_our_back(served, "adder")
    assert infer() == [[2, 3, 4, 5]]


def test_the_secret_of_the_tritonservers_opens_nothing_at_the_gateway(served, client):
    endpoint = served.endpoint("local")
    secret = endpoint.admin_grpc_headers if client.is_grpc else endpoint.admin_http_headers
    with pytest.raises(InferenceServerException, match="parameters are not taken"):
        client.load_model("adder", config="{}", headers=secret)
