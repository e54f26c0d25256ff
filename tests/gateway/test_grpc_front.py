from __future__ import annotations

import asyncio
import contextlib
import stat

import grpc
import pytest
from tritonclient.grpc import service_pb2

from tests.gateway.grpc_fronting import LIMIT, Aborted, Scripted, fronting, request
from tritonfleet.errors import FleetSaturated, LoadFailed
from tritonfleet.gateway.envoy.plan import (
    FALLBACK_HEADER,
    MIRROR_HEADER,
    RESIDENCY_HEADER,
    TENANT_HEADER,
    WAIT_HEADER,
)
from tritonfleet.spec.traffic import TenantSpec

TEAMS = {"a": TenantSpec(models=("bert",)), "ops": TenantSpec(manage=True)}
A, OPS = ((TENANT_HEADER, "a"),), ((TENANT_HEADER, "ops"),)


@pytest.fixture
def triton():
    return Scripted()


async def refused(call):
    """The error that a call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def until(condition):
    async def so():
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.001)

    await asyncio.wait_for(so(), 10)


# -- inference ---------------------------------------------------------------------------------


async def test_a_cold_request_is_loaded_for_and_answered_as_triton_answered(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        call = fronted.stub.ModelInfer(request(id="7"))
        answer = await call
        assert (answer.model_name, answer.id) == ("bert", "7")
        told = dict(await call.initial_metadata())
        assert told[RESIDENCY_HEADER] == "cold"
        assert float(told[WAIT_HEADER]) >= 0
        assert dict(await call.trailing_metadata())["from-triton"] == "yes"
        second = fronted.stub.ModelInfer(request())
        await second
        assert dict(await second.initial_metadata())[RESIDENCY_HEADER] == "warm"
        assert fronted.controller.proved == ["bert", "bert"]
        assert not fronted.controller.out["bert"]


async def test_the_bytes_of_a_request_and_of_its_answer_pass_untouched(tmp_path, triton):
    # An unknown field, and fields in an order that no writer of protobuf chooses.
    body = b"\x32\x00" + request(id="1").SerializeToString() + b"\xa2\x06\x03abc"
    async with fronting(tmp_path, triton) as fronted:
        await fronted.raw("ModelInfer", body)
        assert triton.seen[0].SerializeToString().endswith(b"\xa2\x06\x03abc")


async def test_an_error_of_triton_passes_with_code_details_and_trailing_metadata(tmp_path, triton):
    text = "unexpected shape für 'x'\n100 %"
    triton.reply = lambda _: Aborted(grpc.StatusCode.INVALID_ARGUMENT, text, (("more", "1"),))
    async with fronting(tmp_path, triton) as fronted:
        error = await refused(fronted.stub.ModelInfer(request()))
        assert (error.code(), error.details()) == (grpc.StatusCode.INVALID_ARGUMENT, text)
        assert dict(error.trailing_metadata())["more"] == "1"
        assert dict(error.initial_metadata())[RESIDENCY_HEADER] == "cold"
        assert not fronted.controller.proved


async def test_metadata_passes_but_for_what_belongs_to_the_gateway(tmp_path, triton):
    metadata = (
        ("x-request-id", "abc"), ("traceparent", "00-1"), ("blob-bin", b"\x00\xff"),
        (TENANT_HEADER, "a"), ("x-envoy-attempt-count", "1"),
    )  # fmt: skip
    async with fronting(tmp_path, triton) as fronted:
        await fronted.stub.ModelInfer(request(), metadata=metadata)
    seen = triton.metadata[0]
    assert (seen["x-request-id"], seen["traceparent"], seen["blob-bin"]) == (
        "abc", "00-1", b"\x00\xff")  # fmt: skip
    assert TENANT_HEADER not in seen
    assert "x-envoy-attempt-count" not in seen


async def test_a_compressed_request_arrives_whole(tmp_path, triton):
    big = request(raw_input_contents=[bytes(10_000)])
    async with fronting(tmp_path, triton) as fronted:
        await fronted.stub.ModelInfer(big, compression=grpc.Compression.Gzip)
    assert triton.seen == [big]


async def test_a_caller_that_goes_is_forgotten_while_it_waits(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        fronted.controller.hold("bert")
        call = fronted.stub.ModelInfer(request())
        await until(lambda: fronted.controller.did == [("wait", "bert")])
        assert fronted.desk.counters.held_bytes > 0
        call.cancel()
        await until(lambda: fronted.desk.counters.held_bytes == 0)
    assert not triton.seen


async def test_a_caller_that_goes_is_forgotten_by_triton_too(tmp_path, triton):
    triton.reply = lambda _: asyncio.sleep(3600)
    async with fronting(tmp_path, triton) as fronted:
        call = fronted.stub.ModelInfer(request())
        await until(lambda: triton.seen)
        call.cancel()
        await asyncio.wait_for(triton.cancelled.wait(), 10)
        await until(lambda: not fronted.controller.out["bert"])


@pytest.mark.parametrize(
    ("options", "parameters", "longest_s"),
    [
        ({"metadata": (("tritonfleet-timeout-ms", "700"),)}, {}, 0.7),
        ({}, {"timeout": 500_000}, 0.5),
        ({"metadata": (("tritonfleet-timeout-ms", "700"),)}, {"timeout": 500_000}, 0.5),
        ({"timeout": 20}, {"timeout": 500_000}, 0.5),
        # What is left of it when it arrives; gRPC itself rounds it up.
        ({"timeout": 20}, {}, pytest.approx(20, abs=10)),
        ({}, {}, 60.0),
    ],
)
async def test_the_shortest_of_the_deadlines_bounds_the_wait(
    tmp_path, triton, options, parameters, longest_s
):
    async with fronting(tmp_path, triton) as fronted:
        await fronted.stub.ModelInfer(request(parameters=parameters), **options)
        _, timeout_s, _ = fronted.controller.asked[0]
        assert timeout_s == longest_s


async def test_a_wait_past_the_callers_deadline_is_told_so(tmp_path, triton):
    refusals = {"bert": FleetSaturated("bert", 0.5, 3.0)}
    async with fronting(tmp_path, triton, refusals=refusals) as fronted:
        error = await refused(fronted.stub.ModelInfer(request(parameters={"timeout": 500_000})))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_refusal_says_when_to_come_back(tmp_path, triton):
    refusals = {"bert": FleetSaturated("bert", 60, 3.0)}
    async with fronting(tmp_path, triton, refusals=refusals) as fronted:
        error = await refused(fronted.stub.ModelInfer(request()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert dict(error.trailing_metadata())["retry-after"] == "3"


async def test_a_fallback_answers_under_its_own_name_and_the_header_says_so(tmp_path, triton):
    refusals = {"bert": LoadFailed("bert", "broken")}
    rules = {"fallbacks": {"bert": ("vit",)}}
    async with fronting(tmp_path, triton, refusals=refusals, rules=rules) as fronted:
        call = fronted.stub.ModelInfer(request(id="9", raw_input_contents=[b"1234"]))
        answer = await call
        assert answer.model_name == "vit"
        assert dict(await call.initial_metadata())[FALLBACK_HEADER] == "vit"
        assert triton.seen[0] == request("vit", id="9", raw_input_contents=[b"1234"])


async def test_a_copy_is_answered_by_the_model_that_mirrors(tmp_path, triton):
    rules = {"mirrors": {"bert": "vit"}}
    async with fronting(tmp_path, triton, ready={"vit"}, rules=rules) as fronted:
        metadata = ((MIRROR_HEADER, "1"),)
        await fronted.stub.ModelInfer(request(model_version="2"), metadata=metadata)
        assert [(one.model_name, one.model_version) for one in triton.seen] == [("vit", "")]


async def test_a_model_that_triton_does_not_hold_after_all_is_asked_for_once_more(tmp_path, triton):
    text = "Request for unknown model: 'bert' has no available versions"
    answers = [Aborted(grpc.StatusCode.NOT_FOUND, text), service_pb2.ModelInferResponse(id="ok")]
    triton.reply = lambda _: answers.pop(0)
    async with fronting(tmp_path, triton) as fronted:
        assert (await fronted.stub.ModelInfer(request())).id == "ok"
        assert fronted.controller.did == [("missing", "bert")]


async def test_a_model_that_leaves_each_time_may_be_asked_for_again_later(tmp_path, triton):
    text = "Request for unknown model: 'bert' has no available versions"

    def absent(_):
        return Aborted(grpc.StatusCode.NOT_FOUND, text)

    triton.reply = absent
    async with fronting(tmp_path, triton) as fronted:
        with pytest.raises(grpc.aio.AioRpcError, match="as in a restart") as refused:
            await fronted.stub.ModelInfer(request())
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(("held", "seen"), [((), 2), ((3,), 1)])
async def test_an_explicit_version_is_asked_for_once_more_if_its_model_has_gone_altogether(
    tmp_path, triton, held, seen
):
    text = "Request for unknown model: 'bert' version 2 is not at ready state"
    answers = [Aborted(grpc.StatusCode.UNAVAILABLE, text), service_pb2.ModelInferResponse()]
    triton.reply = lambda _: answers.pop(0)
    async with fronting(tmp_path, triton) as fronted:
        fronted.controller.versions["bert"] = held
        with contextlib.suppress(grpc.aio.AioRpcError):
            await fronted.stub.ModelInfer(request(model_version="2"))
        assert len(triton.seen) == seen


@pytest.mark.parametrize(
    "text",
    [
        "Request for unknown model: 'bert' version 9 is not found",
        "Request for unknown model: 'vit' has no available versions",
        "in ensemble 'bert', Request for unknown model: 'bert' has no available versions",
    ],
)
async def test_no_other_error_is_answered_with_a_second_execution(tmp_path, triton, text):
    triton.reply = lambda _: Aborted(grpc.StatusCode.NOT_FOUND, text)
    async with fronting(tmp_path, triton) as fronted:
        error = await refused(fronted.stub.ModelInfer(request()))
        assert error.details() == text
        assert len(triton.seen) == 1


async def test_a_server_that_has_gone_is_asked_again_and_then_reported(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        await fronted.stub.ModelInfer(request())
        gone = fronted.controller.endpoints["gpu0"]
        fronted.controller.endpoints["gpu0"] = type(gone)("127.0.0.1:1", "127.0.0.1:1", pid=1)
        error = await refused(fronted.stub.ModelInfer(request()))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert "'gpu0' does not answer" in error.details()
        fronted.controller.endpoints["gpu0"] = gone
        await fronted.stub.ModelInfer(request())
        assert len(triton.seen) == 2


async def test_what_cannot_be_read_is_an_invalid_argument(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        for method in ("ModelInfer", "ModelReady", "ModelStatistics", "RepositoryModelLoad"):
            error = await refused(fronted.raw(method, b"\x0a\x40bert"))
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, method
            assert "cannot be read" in error.details()
    assert not triton.seen


async def test_a_request_beyond_the_limit_is_refused(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        big = request(raw_input_contents=[bytes(LIMIT)])
        error = await refused(fronted.stub.ModelInfer(big))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_an_answer_may_be_of_any_size(tmp_path, triton):
    big = service_pb2.ModelInferResponse(raw_output_contents=[bytes(6 * LIMIT)])
    triton.reply = lambda _: big
    async with fronting(tmp_path, triton) as fronted:
        assert await fronted.stub.ModelInfer(request()) == big


@pytest.mark.parametrize("name", ["", "nobody", "../etc", "a/b", "ü" * 300, "\x00"])
async def test_odd_names_are_not_found(tmp_path, triton, name):
    async with fronting(tmp_path, triton) as fronted:
        error = await refused(fronted.stub.ModelInfer(request(name)))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_an_unknown_method_is_unimplemented(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        error = await refused(fronted.raw("ModelDestroy", b""))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_tenant_calls_only_its_models(tmp_path, triton):
    async with fronting(tmp_path, triton, rules={"tenants": TEAMS}) as fronted:
        await fronted.stub.ModelInfer(request("bert"), metadata=A)
        for metadata in (A, ()):
            error = await refused(fronted.stub.ModelInfer(request("vit"), metadata=metadata))
            assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_the_socket_is_for_this_user_only(tmp_path, triton):
    async with fronting(tmp_path, triton):
        assert stat.S_IMODE((tmp_path / "grpc.sock").stat().st_mode) == 0o600


async def test_a_stop_lets_calls_under_way_finish(tmp_path, triton):
    let = asyncio.Event()

    async def later(_):
        await let.wait()
        return service_pb2.ModelInferResponse(id="late")

    triton.reply = later
    async with fronting(tmp_path, triton) as fronted:
        call = fronted.stub.ModelInfer(request())
        await until(lambda: triton.seen)
        stopping = asyncio.ensure_future(fronted.front.stop(10))
        await asyncio.sleep(0)
        let.set()
        assert (await call).id == "late"
        await stopping


# -- everything else ---------------------------------------------------------------------------


async def test_a_cold_model_is_ready_and_its_answer_says_that_it_is_cold(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        asked = service_pb2.ModelReadyRequest(name="bert")
        call = fronted.stub.ModelReady(asked)
        assert (await call).ready
        assert dict(await call.initial_metadata())[RESIDENCY_HEADER] == "cold"
        strict = (("tritonfleet-strict", "true"),)
        assert not (await fronted.stub.ModelReady(asked, metadata=strict)).ready
        fronted.controller.ready.add("bert")
        call = fronted.stub.ModelReady(asked, metadata=strict)
        assert (await call).ready
        assert dict(await call.initial_metadata())[RESIDENCY_HEADER] == "warm"


@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("bert", "9")])
async def test_what_nobody_published_is_not_ready(tmp_path, triton, name, version):
    async with fronting(tmp_path, triton) as fronted:
        asked = service_pb2.ModelReadyRequest(name=name, version=version)
        assert not (await fronted.stub.ModelReady(asked)).ready


async def test_a_model_whose_loads_fail_is_not_ready(tmp_path, triton):
    failures = {"bert": LoadFailed("bert", "broken")}
    async with fronting(tmp_path, triton, failures=failures) as fronted:
        asked = service_pb2.ModelReadyRequest(name="bert")
        assert not (await fronted.stub.ModelReady(asked)).ready


async def test_metadata_is_tritons_where_the_model_is_resident_else_the_repositorys(
    tmp_path, triton
):
    async with fronting(tmp_path, triton, ready={"vit"}) as fronted:
        cold = await fronted.stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="bert"))
        assert (cold.name, list(cold.versions)) == ("bert", ["1", "2"])
        assert [(one.name, one.datatype, list(one.shape)) for one in cold.inputs] == [
            ("x", "FP32", [1])
        ]
        warm = await fronted.stub.ModelMetadata(service_pb2.ModelMetadataRequest(name="vit"))
        assert warm.platform == "from triton"
        config = await fronted.stub.ModelConfig(service_pb2.ModelConfigRequest(name="bert"))
        assert config.config.name == "bert"


async def test_a_version_that_nobody_published_is_not_found(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        asked = service_pb2.ModelMetadataRequest(name="bert", version="9")
        error = await refused(fronted.stub.ModelMetadata(asked))
        assert error.code() is grpc.StatusCode.NOT_FOUND
        assert "version 9 is not found" in error.details()


async def test_statistics_of_all_models_are_all_servers_and_only_the_visible_ones(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        everything = await fronted.stub.ModelStatistics(service_pb2.ModelStatisticsRequest())
        assert [(one.name, one.inference_count) for one in everything.model_stats] == [("bert", 7)]
        cold = await fronted.stub.ModelStatistics(service_pb2.ModelStatisticsRequest(name="vit"))
        assert [(one.version, one.inference_count) for one in cold.model_stats] == [
            ("1", 0), ("2", 0)]  # fmt: skip


async def test_server_metadata_health_and_readiness(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        told = await fronted.stub.ServerMetadata(service_pb2.ServerMetadataRequest())
        assert (told.name, told.version) == ("tritonfleet", "1.2.3")
        assert "statistics" in told.extensions
        assert (await fronted.stub.ServerLive(service_pb2.ServerLiveRequest())).live
        assert (await fronted.stub.ServerReady(service_pb2.ServerReadyRequest())).ready
        fronted.controller.endpoints.clear()
        assert not (await fronted.stub.ServerReady(service_pb2.ServerReadyRequest())).ready


async def test_the_repository_extension_drives_our_residency(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        load = service_pb2.RepositoryModelLoadRequest(model_name="bert")
        await fronted.stub.RepositoryModelLoad(load)
        index = await fronted.stub.RepositoryIndex(service_pb2.RepositoryIndexRequest())
        assert [(one.name, one.state) for one in index.models] == [
            ("bert", "READY"), ("vit", "UNAVAILABLE")]  # fmt: skip
        only = service_pb2.RepositoryIndexRequest(ready=True)
        assert [one.name for one in (await fronted.stub.RepositoryIndex(only)).models] == ["bert"]
        unload = service_pb2.RepositoryModelUnloadRequest(model_name="bert")
        unload.parameters["unload_dependents"].bool_param = True
        await fronted.stub.RepositoryModelUnload(unload)
        assert fronted.controller.did == [("load", "bert"), ("unload", "bert")]


async def test_a_load_with_parameters_is_refused(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        load = service_pb2.RepositoryModelLoadRequest(model_name="bert")
        load.parameters["config"].string_param = "{}"
        error = await refused(fronted.stub.RepositoryModelLoad(load))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "config" in error.details()


async def test_only_those_who_manage_load_and_change_settings(tmp_path, triton):
    trace = service_pb2.TraceSettingRequest()
    trace.settings["trace_rate"].value.append("1")
    load = service_pb2.RepositoryModelLoadRequest(model_name="bert")
    async with fronting(tmp_path, triton, rules={"tenants": TEAMS}) as fronted:
        for call in (
            fronted.stub.RepositoryModelLoad(load, metadata=A),
            fronted.stub.TraceSetting(trace, metadata=A),
        ):
            assert (await refused(call)).code() is grpc.StatusCode.PERMISSION_DENIED
        assert not triton.seen
        await fronted.stub.TraceSetting(service_pb2.TraceSettingRequest(), metadata=A)
        await fronted.stub.TraceSetting(trace, metadata=OPS)
        assert len(triton.seen) == 2
        assert {one["triton-grpc-protocol-admin"] for one in triton.metadata} == {"hush"}
        index = service_pb2.RepositoryIndexRequest()
        seen = await fronted.stub.RepositoryIndex(index, metadata=A)
        assert [one.name for one in seen.models] == ["bert"]


async def test_shared_memory_is_registered_with_every_server(tmp_path, triton):
    region = service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=8)
    async with fronting(tmp_path, triton) as fronted:
        await fronted.stub.SystemSharedMemoryRegister(region)
        assert triton.metadata[0]["triton-grpc-protocol-admin"] == "hush"
        assert triton.seen == [region]
        gone = service_pb2.SystemSharedMemoryUnregisterRequest(name="r")
        await fronted.stub.SystemSharedMemoryUnregister(gone)
        assert triton.seen == [region, gone]


async def test_a_region_that_one_server_refuses_is_registered_nowhere(tmp_path, triton):
    region = service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=8)
    async with fronting(tmp_path, triton) as fronted:
        gone = fronted.controller.endpoints["gpu0"]
        fronted.controller.endpoints["gpu1"] = type(gone)("127.0.0.1:1", "127.0.0.1:1", pid=1)
        error = await refused(fronted.stub.SystemSharedMemoryRegister(region))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        assert triton.seen == [region, service_pb2.SystemSharedMemoryUnregisterRequest(name="r")]
        assert fronted.shared_memory.regions == ()


async def test_shared_memory_is_refused_where_it_makes_no_sense(tmp_path, triton):
    region = service_pb2.SystemSharedMemoryRegisterRequest(name="r", key="/k", byte_size=8)
    async with fronting(tmp_path, triton, pid=None) as fronted:
        error = await refused(fronted.stub.SystemSharedMemoryRegister(region))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "gpu0" in error.details()
    async with fronting(tmp_path, triton, rules={"tenants": TEAMS}) as fronted:
        error = await refused(fronted.stub.SystemSharedMemoryRegister(region, metadata=OPS))
        assert error.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_what_triton_lacks_is_said_in_its_own_words(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        asked = service_pb2.CudaSharedMemoryStatusRequest()
        error = await refused(fronted.stub.CudaSharedMemoryStatus(asked))
        assert error.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_standard_health_service(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        check = fronted.channel.unary_unary("/grpc.health.v1.Health/Check")
        assert await check(b"") == b"\x08\x01"
        assert await check(b"\x0a\x1einference.GRPCInferenceService") == b"\x08\x01"
        assert (await refused(check(b"\x0a\x04nope"))).code() is grpc.StatusCode.NOT_FOUND
        assert (await refused(check(b"\x0a\x09"))).code() is grpc.StatusCode.INVALID_ARGUMENT
        watch = fronted.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watch.read() == b"\x08\x01"
        fronted.controller.endpoints.clear()
        assert await watch.read() == b"\x08\x02"
        assert await check(b"") == b"\x08\x02"


async def test_a_stop_ends_those_who_watch(tmp_path, triton):
    async with fronting(tmp_path, triton) as fronted:
        watch = fronted.channel.unary_stream("/grpc.health.v1.Health/Watch")(b"")
        assert await watch.read() == b"\x08\x01"
        await asyncio.wait_for(fronted.front.stop(60), 10)
        assert await watch.read() == b"\x08\x02"
        assert await watch.read() is grpc.aio.EOF
