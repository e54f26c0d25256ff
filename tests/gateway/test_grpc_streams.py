from __future__ import annotations

import asyncio

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.gateway.grpc_fronting import Aborted, Scripted, answering, fronting, request, streamed
from tritonfleet.errors import FleetSaturated, LoadFailed
from tritonfleet.server.endpoint import Endpoint

DECOUPLED = "model_transaction_policy { decoupled: true }"
SEQUENCES = "sequence_batching { max_sequence_idle_microseconds: 200000 }"
FOREVER = "sequence_batching { max_sequence_idle_microseconds: 3600000000 }"


@pytest.fixture
def triton():
    return Scripted()


async def until(condition):
    async def so():
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(so(), 10)


async def read(stream, count=1):
    return [await asyncio.wait_for(stream.read(), 10) for _ in range(count)]


async def rest(stream):
    """All answers until the stream ends."""
    await stream.done_writing()
    answers = []
    while (answer := (await read(stream))[0]) is not grpc.aio.EOF:
        answers.append(answer)
    return answers


def ids(answers):
    return [answer.infer_response.id for answer in answers]


def sequence(number, model="bert", *, start=False, end=False):
    parameters = {"sequence_id": number, "sequence_start": start, "sequence_end": end}
    return request(model, id=str(number), parameters=parameters)


# -- ordinary models ---------------------------------------------------------------------------


async def test_every_message_is_answered_by_the_model_that_it_names(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for model in ("bert", "vit", "bert"):
            await stream.write(request(model))
        answers = await rest(stream)
        assert [one.infer_response.model_name for one in answers] == ["bert", "vit", "bert"]
        assert await stream.code() is grpc.StatusCode.OK
        assert sorted(fronted.controller.proved) == ["bert", "bert", "vit"]
        assert not +fronted.controller.out


async def test_answers_keep_the_order_of_the_requests_over_models(tmp_path, triton):
    slow = asyncio.Event()

    async def reply(message):
        if message.model_name == "bert":
            await slow.wait()
        return [streamed(message)]

    triton.stream_reply = reply
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        await stream.write(request("bert", id="1"))
        await stream.write(request("vit", id="2"))
        # The second one is answered, and its model let go, long before the first one is.
        await until(lambda: fronted.controller.proved == ["vit"])
        await until(lambda: fronted.controller.out["vit"] == 0)
        assert fronted.controller.out["bert"] == 1
        slow.set()
        assert ids(await rest(stream)) == ["1", "2"]


async def test_one_stream_reaches_models_on_several_servers(tmp_path, triton):
    other = Scripted()
    async with fronting(tmp_path, triton) as fronted:
        async with answering(other) as address:
            fronted.controller.endpoints["gpu1"] = Endpoint("127.0.0.1:1", address)
            fronted.controller.places["vit"] = "gpu1"
            stream = fronted.stream()
            for number, model in enumerate(["bert", "vit", "bert", "vit"]):
                await stream.write(request(model, id=str(number)))
            assert ids(await rest(stream)) == ["0", "1", "2", "3"]
            assert [one.model_name for one in triton.seen] == ["bert", "bert"]
            assert [one.model_name for one in other.seen] == ["vit", "vit"]


async def test_no_lease_outlives_the_answer(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for _ in range(3):
            await stream.write(request())
            await read(stream)
            assert fronted.controller.out["bert"] == 0
        assert len(fronted.controller.asked) == 3
        assert fronted.desk.counters.held_bytes == 0
        await rest(stream)


async def test_a_cold_model_holds_back_only_what_comes_behind_it(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        loaded = fronted.controller.hold("vit")
        stream = fronted.stream()
        for number, model in enumerate(["bert", "vit", "bert"]):
            await stream.write(request(model, id=str(number)))
        assert ids(await read(stream)) == ["0"]
        await until(lambda: ("wait", "vit") in fronted.controller.did)
        assert len(triton.seen) == 1
        loaded.set()
        assert ids(await rest(stream)) == ["1", "2"]


async def test_metadata_reaches_triton(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream(metadata=(("x-request-id", "abc"),))
        await stream.write(request())
        await rest(stream)
        assert triton.metadata[0]["x-request-id"] == "abc"


# -- errors ------------------------------------------------------------------------------------


async def test_errors_come_in_the_stream_and_leave_the_rest_alone(tmp_path, triton):
    def reply(message):
        return [streamed(message, text="boom" if message.id == "2" else "")]

    triton.stream_reply = reply
    refusals = {"vit": LoadFailed("vit", "broken")}
    async with fronting(tmp_path, triton, refusals=refusals) as fronted:
        stream = fronted.stream()
        asked = [("bert", "1"), ("bert", "2"), ("nobody", "3"), ("vit", "4"), ("bert", "5")]
        for model, number in asked:
            await stream.write(request(model, id=number))
        answers = await rest(stream)
        assert ids(answers) == ["1", "2", "3", "4", "5"]
        errors = [one.error_message for one in answers]
        assert errors[0] == errors[4] == ""
        assert errors[1] == "boom"
        assert "'nobody' is not in the fleet" in errors[2]
        assert "vit failed to load" in errors[3]
        assert await stream.code() is grpc.StatusCode.OK


async def test_a_malformed_message_is_an_error_in_the_stream(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        method = fronted.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        stream = method()
        await stream.write(b"\x0a\x40bert")
        await stream.write(request(id="2").SerializeToString())
        await stream.done_writing()
        answers = [service_pb2.ModelStreamInferResponse.FromString(one) async for one in stream]
        assert "truncated" in answers[0].error_message
        assert ids(answers) == ["", "2"]


async def test_a_server_that_dies_is_an_error_for_each_request_it_had(tmp_path, triton):
    triton.stream_reply = lambda message: (
        Aborted(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if message.id == "2"
        else [streamed(message)]
    )
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for number in "123":
            await stream.write(request(id=number))
        answers = await read(stream, 3)
        assert ids(answers) == ["1", "2", "3"]
        assert "'gpu0' does not answer" in answers[1].error_message
        # A new stream to the server serves what comes next.
        await stream.write(request(id="4"))
        assert ids(await rest(stream)) == ["4"]
        assert not +fronted.controller.out


async def test_a_server_that_is_not_there_is_asked_once_more(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        back = fronted.controller.endpoints["gpu0"]
        fronted.controller.endpoints["gpu0"] = Endpoint("127.0.0.1:1", "127.0.0.1:1")
        stream = fronted.stream()
        await stream.write(request(id="1"))
        await until(lambda: fronted.controller.asked)
        again = fronted.controller.hold("bert")
        await until(lambda: fronted.controller.did == [("wait", "bert")])
        fronted.controller.endpoints["gpu0"] = back
        again.set()
        assert ids(await rest(stream)) == ["1"]
        fronted.controller.endpoints["gpu0"] = Endpoint("127.0.0.1:1", "127.0.0.1:1")
        stream = fronted.stream()
        await stream.write(request(id="2"))
        [answer] = await rest(stream)
        assert "'gpu0' does not answer" in answer.error_message
        assert not +fronted.controller.out


async def test_a_model_that_triton_does_not_hold_after_all_is_asked_for_once_more(tmp_path, triton):
    missing = "Request for unknown model: 'bert' has no available versions"
    times = {"1": 1, "2": 9}

    def reply(message):
        times[message.id] = times.get(message.id, 0) - 1
        return [streamed(message, text=missing if times[message.id] >= 0 else "")]

    triton.stream_reply = reply
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for number in "123":
            await stream.write(request(id=number, raw_input_contents=[number.encode()]))
        answers = await rest(stream)
        assert ids(answers) == ["1", "2", "3"]
        assert [one.error_message for one in answers] == ["", missing, ""]
        assert fronted.controller.did == [("missing", "bert")] * 2
        assert not +fronted.controller.out


@pytest.mark.parametrize(("held", "seen"), [((), 2), ((3,), 1)])
async def test_an_explicit_version_is_asked_for_once_more_if_its_model_has_gone_altogether(
    tmp_path, triton, held, seen
):
    answers = ["Request for unknown model: 'bert' version 2 is not at ready state", ""]
    triton.stream_reply = lambda message: [streamed(message, text=answers.pop(0))]
    async with fronting(tmp_path, triton) as fronted:
        fronted.controller.versions["bert"] = held
        stream = fronted.stream()
        await stream.write(request(model_version="2"))
        assert len(await rest(stream)) == 1
        assert len(triton.seen) == seen


@pytest.mark.parametrize(
    "text",
    [
        "Request for unknown model: 'bert' version 9 is not found",
        "Request for unknown model: 'vit' is not found",
        "boom",
    ],
)
async def test_nothing_else_is_sent_twice(tmp_path, triton, text):
    triton.stream_reply = lambda message: [streamed(message, text=text)]
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        await stream.write(request())
        assert [one.error_message for one in await rest(stream)] == [text]
        assert len(triton.seen) == 1


async def test_a_wait_past_the_deadline_of_a_message_is_an_error_of_that_message(tmp_path, triton):
    refusals = {"vit": FleetSaturated("vit", 0.5, 1.0)}
    async with fronting(tmp_path, triton, refusals=refusals) as fronted:
        stream = fronted.stream()
        await stream.write(request("vit", parameters={"timeout": 500_000}))
        await stream.write(request("bert"))
        errors = [one.error_message for one in await rest(stream)]
        assert "0.5 s" in errors[0]
        assert errors[1] == ""


async def test_a_fallback_answers_under_its_own_name_and_says_so(tmp_path, triton):
    refusals = {"bert": LoadFailed("bert", "broken")}
    rules = {"fallbacks": {"bert": ("vit",)}}
    async with fronting(tmp_path, triton, refusals=refusals, rules=rules) as fronted:
        stream = fronted.stream()
        await stream.write(request())
        [answer] = await rest(stream)
        assert answer.infer_response.model_name == "vit"
        told = answer.infer_response.parameters
        assert told["tritonfleet_fallback"].string_param == "vit"


# -- decoupled models --------------------------------------------------------------------------


def counting(message):
    """As many answers as the id says, and then the empty one that Triton was asked for."""
    assert message.parameters["triton_enable_empty_final_response"].bool_param
    several = [streamed(message, final=False) for _ in range(int(message.id))]
    return [*several, streamed(message, final=True, outputs=0)]


async def test_a_decoupled_model_answers_as_often_as_it_likes(tmp_path, triton):
    triton.stream_reply = counting
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        for number in "302":
            await stream.write(request(id=number))
        assert sorted(ids(await rest(stream))) == ["2", "2", "3", "3", "3"]
        assert not +fronted.controller.out


async def test_the_end_of_a_decoupled_answer_gives_the_lease_back_while_the_stream_goes_on(
    tmp_path, triton
):
    triton.stream_reply = counting
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        await stream.write(request(id="0"))
        await until(lambda: len(triton.seen) == 1)
        await until(lambda: fronted.controller.out["bert"] == 0)
        await stream.write(request(id="2"))
        await read(stream, 2)
        await until(lambda: fronted.controller.out["bert"] == 0)
        assert await rest(stream) == []


async def test_a_client_that_asks_for_the_end_is_told_of_it(tmp_path, triton):
    triton.stream_reply = counting
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        parameters = {"triton_enable_empty_final_response": True}
        await stream.write(request(id="1", parameters=parameters))
        answers = await rest(stream)
        finals = [one.infer_response.parameters["triton_final_response"] for one in answers]
        assert [one.bool_param for one in finals] == [False, True]


async def test_a_decoupled_model_overtakes_one_that_is_slow(tmp_path, triton):
    slow = asyncio.Event()

    async def reply(message):
        if message.model_name == "vit":
            await slow.wait()
            return [streamed(message)]
        return counting(message)

    triton.stream_reply = reply
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        await stream.write(request("vit", id="9"))
        await stream.write(request("bert", id="2"))
        assert ids(await read(stream, 2)) == ["2", "2"]
        slow.set()
        assert ids(await rest(stream)) == ["9"]


async def test_an_error_of_a_decoupled_model_need_not_be_the_end(tmp_path, triton):
    triton.stream_reply = lambda message: [
        streamed(message, text="a hiccup", final=False),
        streamed(message, final=True),
    ]
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        await stream.write(request())
        answers = await rest(stream)
        assert [one.error_message for one in answers] == ["a hiccup", ""]
        assert not +fronted.controller.out


async def test_a_decoupled_request_that_is_refused_is_over(tmp_path, triton):
    triton.stream_reply = lambda message: [streamed(message, text="unexpected shape")]
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        await stream.write(request())
        assert [one.error_message for one in await read(stream)] == ["unexpected shape"]
        await until(lambda: fronted.controller.out["bert"] == 0)
        await rest(stream)


# -- sequences ---------------------------------------------------------------------------------


async def test_a_sequence_holds_its_model_from_start_to_end(tmp_path, triton):
    async with fronting(tmp_path, triton, configs={"bert": FOREVER}) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        await read(stream)
        assert fronted.controller.out["bert"] == 1
        await stream.write(sequence(5))
        await read(stream)
        assert fronted.controller.out["bert"] == 1
        await stream.write(sequence(5, end=True))
        await read(stream)
        assert fronted.controller.out["bert"] == 0
        assert len(fronted.controller.asked) == 1
        assert triton.streams == 1
        await rest(stream)


async def test_a_sequence_goes_on_while_its_model_is_given_to_nobody_new(tmp_path, triton):
    async with fronting(tmp_path, triton, configs={"bert": FOREVER}) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        await read(stream)
        fronted.controller.hold("bert")
        await stream.write(sequence(5, end=True))
        assert ids(await rest(stream)) == ["5"]
        assert fronted.controller.out["bert"] == 0


async def test_sequences_by_name_and_by_number_are_told_apart(tmp_path, triton):
    async with fronting(tmp_path, triton, configs={"bert": FOREVER}) as fronted:
        stream = fronted.stream()
        for number in (5, "five"):
            await stream.write(sequence(number, start=True))
            await read(stream)
        assert fronted.controller.out["bert"] == 2
        await rest(stream)
        await until(lambda: fronted.controller.out["bert"] == 0)


async def test_a_sequence_that_nobody_goes_on_with_lets_its_model_go(tmp_path, triton):
    async with fronting(tmp_path, triton, configs={"bert": SEQUENCES}) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        await read(stream)
        await until(lambda: fronted.controller.out["bert"] == 0)
        # What comes too late is for Triton to refuse.
        await stream.write(sequence(5))
        await read(stream)
        assert len(fronted.controller.asked) == 2
        await rest(stream)


async def test_a_correlation_id_means_nothing_to_a_model_without_sequences(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        await read(stream)
        assert fronted.controller.out["bert"] == 0
        await rest(stream)


async def test_a_part_of_a_sequence_is_never_sent_twice(tmp_path, triton):
    missing = "Request for unknown model: 'bert' has no available versions"
    triton.stream_reply = lambda message: [streamed(message, text=missing)]
    async with fronting(tmp_path, triton, configs={"bert": FOREVER}) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        assert [one.error_message for one in await rest(stream)] == [missing]
        assert len(triton.seen) == 1


# -- ends --------------------------------------------------------------------------------------


async def test_a_client_that_goes_while_triton_works_has_the_work_cancelled(tmp_path, triton):
    async def never(_):
        await asyncio.Event().wait()

    triton.stream_reply = never
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        await stream.write(request())
        await until(lambda: triton.seen)
        stream.cancel()
        await asyncio.wait_for(triton.cancelled.wait(), 10)
        await until(lambda: fronted.controller.out["bert"] == 0)
        assert fronted.desk.counters.held_bytes == 0


async def test_a_client_that_goes_when_all_is_answered_has_nothing_cancelled(tmp_path, triton):
    triton.stream_reply = counting
    async with fronting(tmp_path, triton, configs={"bert": DECOUPLED}) as fronted:
        stream = fronted.stream()
        await stream.write(request(id="1"))
        await read(stream)
        await until(lambda: fronted.controller.out["bert"] == 0)
        stream.cancel()
        await asyncio.wait_for(triton.ended.wait(), 10)
        assert not triton.cancelled.is_set()


async def test_a_client_that_goes_while_its_model_is_loaded_is_forgotten(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        fronted.controller.hold("bert")
        stream = fronted.stream()
        await stream.write(request())
        await until(lambda: fronted.controller.did == [("wait", "bert")])
        stream.cancel()
        await until(lambda: fronted.desk.counters.held_bytes == 0)


async def test_a_client_that_does_not_read_holds_its_own_requests_back(tmp_path, triton):
    big = bytes(2**19)

    def reply(message):
        answer = streamed(message)
        answer.infer_response.raw_output_contents.append(big)
        return [answer]

    triton.stream_reply = reply
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()

        async def send():
            for _ in range(200):
                await stream.write(request(raw_input_contents=[big]))

        sending = asyncio.ensure_future(send())
        done, _ = await asyncio.wait({sending}, timeout=1)
        assert not done
        await read(stream, 200)
        await sending
        await rest(stream)


async def test_nothing_stays_open_to_triton_while_nothing_is_under_way(tmp_path, triton):
    # Triton unloads no model while a stream is open on which it has answered.
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for _ in range(3):
            await stream.write(request())
            await read(stream)
            await until(lambda: triton.open_streams == 0)
        assert not triton.cancelled.is_set()
        await rest(stream)


async def test_what_is_under_way_together_goes_on_one_stream(tmp_path, triton):
    go = asyncio.Event()

    async def reply(message):
        await go.wait()
        return [streamed(message)]

    triton.stream_reply = reply
    async with fronting(tmp_path, triton) as fronted:
        stream = fronted.stream()
        for number in "1234":
            await stream.write(request(id=number))
        await until(lambda: fronted.controller.out["bert"] == 4)
        go.set()
        assert ids(await rest(stream)) == ["1", "2", "3", "4"]
        assert triton.streams == 1


async def test_a_sequence_whose_server_has_gone_is_told_so_and_may_begin_anew(tmp_path, triton):
    triton.stream_reply = lambda message: (
        Aborted(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        if message.id == "dies"
        else [streamed(message)]
    )
    async with fronting(tmp_path, triton, configs={"bert": FOREVER}) as fronted:
        stream = fronted.stream()
        await stream.write(sequence(5, start=True))
        await read(stream)
        await stream.write(request(id="dies"))
        assert "does not answer" in (await read(stream))[0].error_message
        await stream.write(sequence(5, start=True))
        assert ids(await read(stream)) == ["5"]
        assert fronted.controller.out["bert"] == 1
        await stream.write(sequence(5, end=True))
        await rest(stream)
        assert fronted.controller.out["bert"] == 0
