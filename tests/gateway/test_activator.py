"""The HTTP front before what plays Triton: what is held, sent, tried again and refused."""

from __future__ import annotations

import asyncio
import gzip
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.controller.imitation import until
from tests.gateway.fleet import Fleet, endpoint
from tests.gateway.listening import FakeTriton, front, fronted
from tritonfleet.errors import FleetSaturated, LoadFailed
from tritonfleet.gateway.activator import PAUSES_S
from tritonfleet.gateway.deadlines import LOOK_BYTES
from tritonfleet.gateway.desk import REQUEST_BYTES, Rules
from tritonfleet.spec.traffic import TenantSpec

INFER = "/v2/models/one/infer"
ABSENT = (404, "Request for unknown model: 'one' has no available versions")
FULL = (503, "[request id: <id_unknown>] Exceeds maximum queue size")


def body(**parameters):
    return json.dumps({"inputs": [], "parameters": parameters})


# -- what passes ---------------------------------------------------------------------------------


async def test_a_cold_request_reaches_its_model_and_says_so():
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        for residency in ("cold", "warm"):
            status, said, headers = await gateway.status("POST", INFER, data=body())
            assert (status, said) == (200, {"model_name": "as Triton says"})
            assert headers["tritonfleet-residency"] == residency
            assert float(headers["tritonfleet-wait-ms"]) == 0
            assert "tritonfleet-fallback" not in headers
    assert triton.seen[0].body == body().encode()
    assert gateway.fleet.proved == ["one", "one"]


@pytest.mark.parametrize("verb", ["infer", "generate", "generate_stream"])
@pytest.mark.parametrize("version", ["", "/versions/3"])
async def test_paths_versions_and_queries_reach_triton_as_they_came(verb, version):
    triton = FakeTriton()
    path = f"/v2/models/one{version}/{verb}?a=%2F"
    async with fronted(triton) as gateway:
        assert (await gateway.status("POST", path, data=body()))[0] == 200
    assert triton.paths == [path]


@pytest.mark.parametrize("size", [LOOK_BYTES - 100, LOOK_BYTES, LOOK_BYTES + 1, 3 * LOOK_BYTES])
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_of_every_size_pass_untouched(size, chunked):
    document = body(timeout=10**9).encode()
    sent = document + bytes(size - len(document))

    async def parts():
        for start in range(0, size, 100_000):
            yield sent[start : start + 100_000]

    triton = FakeTriton()
    triton_header = {"Inference-Header-Content-Length": str(len(document))}
    async with fronted(triton) as gateway:
        data = parts() if chunked else sent
        status, _, _ = await gateway.status("POST", INFER, data=data, headers=triton_header)
    assert status == 200
    assert triton.seen[0].body == sent
    assert gateway.fleet.asked[0][1] == 60.0  # of the 1000 s, as long as a queue may last


async def test_tritons_own_refusals_are_final():
    answers = [
        (400, "unexpected shape"),
        (500, "boom"),
        (404, "Request for unknown model: 'one' version 9 is not found"),
        (404, "Request for unknown model: 'another' has no available versions"),
        (503, "Request timeout expired"),
        FULL,
    ]
    triton = FakeTriton(list(answers))
    async with fronted(triton) as gateway:
        for status, text in answers:
            got = await gateway.status("POST", INFER, data=body())
            assert got[:2] == (status, {"error": text})
    assert len(triton.seen) == len(answers), "asked twice"
    assert gateway.fleet.proved == []


# -- deadlines -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "timeout_us", "patience_s"),
    [
        ({}, None, 60.0),
        ({"tritonfleet-timeout-ms": "1500"}, None, 1.5),
        ({}, 250_000, 0.25),
        ({"tritonfleet-timeout-ms": "100"}, 250_000, 0.1),
        ({"tritonfleet-timeout-ms": "1000"}, 250_000, 0.25),
    ],
)
async def test_a_wait_ends_with_the_least_of_the_callers_deadlines(headers, timeout_us, patience_s):
    parameters = {} if timeout_us is None else {"timeout": timeout_us}
    async with fronted(FakeTriton()) as gateway:
        await gateway.status("POST", INFER, data=body(**parameters), headers=headers)
        assert gateway.fleet.asked[0][1] == patience_s


async def test_a_compressed_body_has_its_deadline_read_and_stays_compressed():
    triton, packed = FakeTriton(), gzip.compress(body(timeout=250_000).encode())
    headers = {"Content-Encoding": "gzip"}
    async with fronted(triton) as gateway:
        await gateway.status("POST", INFER, data=packed, headers=headers)
        assert gateway.fleet.asked[0][1] == 0.25
    assert triton.seen[0].body == packed
    assert triton.seen[0].headers["Content-Encoding"] == "gzip"


async def test_a_deadline_that_passes_is_504_and_a_queue_that_does_is_503():
    fleet = Fleet(refusals={"one": FleetSaturated("one", 1.0, 2.0)})
    async with fronted(FakeTriton(), fleet=fleet) as gateway:
        headers = {"tritonfleet-timeout-ms": "500"}
        status, said, _ = await gateway.status("POST", INFER, data=body(), headers=headers)
        assert (status, "within the 0.5 s" in said["error"]) == (504, True)
        status, _, headers = await gateway.status("POST", INFER, data=body())
        assert (status, headers["Retry-After"]) == (503, "2")


async def test_a_server_that_answers_too_late_is_504():
    async def never(_):
        await asyncio.Event().wait()

    async with fronted(never) as gateway:
        headers = {"tritonfleet-timeout-ms": "50"}
        status, _, _ = await gateway.status("POST", INFER, data=body(), headers=headers)
        assert status == 504


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"tritonfleet-timeout-ms": "soon"}, "no number|not a number"),
        ({"tritonfleet-class": "urgent"}, "'interactive' or 'batch'"),
    ],
)
async def test_a_header_of_ours_that_makes_no_sense_is_400(headers, message):
    async with fronted(FakeTriton()) as gateway:
        status, said, _ = await gateway.status("POST", INFER, data=body(), headers=headers)
        assert status == 400
        assert any(words in said["error"] for words in message.split("|"))


# -- what is held --------------------------------------------------------------------------------


async def test_a_body_is_charged_while_it_waits_and_more_is_refused_unread():
    async with fronted(FakeTriton(), held_request_bytes=2**20) as gateway:
        status, said, headers = await gateway.status("POST", INFER, data=bytes(2**20 + 1))
        assert status == 503
        assert "held_request_bytes" in said["error"]
        assert headers["Retry-After"] == "1"
        assert (await gateway.status("POST", INFER, data=bytes(2**20 - REQUEST_BYTES)))[0] == 200
        counters = gateway.desk.counters
        assert (counters.requests, counters.held, counters.held_bytes) == (1, 0, 0)


async def test_a_client_that_leaves_gives_back_what_it_held():
    arrived = asyncio.Event()

    async def never(_):
        arrived.set()
        await asyncio.Event().wait()

    async with fronted(never) as gateway:
        request = asyncio.ensure_future(gateway.status("POST", INFER, data=bytes(1000)))
        await asyncio.wait_for(arrived.wait(), 10)
        assert gateway.desk.counters.held_bytes == 1000 + REQUEST_BYTES
        request.cancel()
        await asyncio.wait([request])

        await until(lambda: not gateway.desk.counters.held_bytes)


# -- trying again --------------------------------------------------------------------------------


async def test_a_model_that_triton_does_not_hold_is_loaded_and_asked_again():
    triton = FakeTriton([ABSENT])
    async with fronted(triton) as gateway:
        assert (await gateway.status("POST", INFER, data=body()))[0] == 200
        assert gateway.fleet.did == [("missing", "one")]
    assert [seen.body for seen in triton.seen] == [body().encode()] * 2


async def test_a_model_that_leaves_each_time_may_be_asked_for_again_later():
    triton = FakeTriton([ABSENT] * 20)
    async with fronted(triton) as gateway:
        status, said, headers = await gateway.status("POST", INFER, data=body())
    assert status == 503
    assert "as in a restart" in said["error"]
    assert headers["Retry-After"] == "1"
    assert len(triton.seen) == len(PAUSES_S)


async def test_an_explicit_version_that_is_not_ready_is_not_asked_for_again():
    text = "Request for unknown model: 'one' version 1 is not at ready state"
    triton = FakeTriton([(503, text)])
    async with fronted(triton) as gateway:
        path = "/v2/models/one/versions/1/infer"
        assert (await gateway.status("POST", path, data=body()))[:2] == (503, {"error": text})
        assert gateway.fleet.did == []


async def test_an_explicit_version_of_a_model_that_has_gone_altogether_is_loaded_with_it():
    text = "Request for unknown model: 'one' version 1 is not at ready state"
    triton = FakeTriton([(503, text)])
    async with fronted(triton) as gateway:
        gateway.fleet.versions["one"] = ()
        path = "/v2/models/one/versions/1/infer"
        assert (await gateway.status("POST", path, data=body()))[0] == 200
        assert gateway.fleet.did == [("missing", "one")]


async def test_a_body_that_has_flowed_through_is_not_sent_again():
    triton = FakeTriton([ABSENT])
    async with fronted(triton) as gateway:
        status, _, _ = await gateway.status("POST", INFER, data=bytes(2 * LOOK_BYTES))
        assert status == 404
    assert len(triton.seen) == 1


async def test_a_connection_that_breaks_is_not_tried_again():
    seen = []

    async def die(request):
        seen.append(request.path)
        request.transport.abort()

    async with fronted(die) as gateway:
        assert (await gateway.status("POST", INFER, data=body()))[0] == 502
    assert seen == [INFER]


@pytest.mark.parametrize("size", [10, 2 * LOOK_BYTES])
async def test_a_server_that_refuses_connections_may_come_back_in_time(size):
    fleet, triton = Fleet(), FakeTriton()
    fleet.endpoints["gpu0"] = endpoint("127.0.0.1:1")
    async with fronted(triton) as other:
        address = other.fleet.endpoints["gpu0"]
        async with front(fleet, Rules(models=("one",))) as gateway:
            request = asyncio.ensure_future(gateway.status("POST", INFER, data=bytes(size)))
            await until(lambda: len(fleet.asked) >= 2)
            fleet.endpoints["gpu0"] = address
            assert (await request)[0] == 200
    assert [len(seen.body) for seen in triton.seen] == [size]


async def test_a_server_that_does_not_come_back_is_502():
    fleet = Fleet()
    fleet.endpoints["gpu0"] = endpoint("127.0.0.1:1")
    async with front(fleet, Rules(models=("one",))) as gateway:
        status, said, _ = await gateway.status("POST", INFER, data=body())
        assert (status, "'gpu0' does not answer" in said["error"]) == (502, True)


# -- fallbacks and copies ------------------------------------------------------------------------


async def test_a_fallback_answers_under_its_own_name_and_is_named():
    fleet = Fleet(refusals={"one": LoadFailed("one", "corrupt")})
    triton = FakeTriton()
    async with fronted(triton, fleet=fleet, fallbacks={"one": ("two",)}) as gateway:
        path = "/v2/models/one/generate?x=1"
        status, _, headers = await gateway.status("POST", path, data=body())
        assert (status, headers["tritonfleet-fallback"]) == (200, "two")
    assert triton.paths == ["/v2/models/two/generate?x=1"]


async def test_what_envoy_has_refused_goes_to_the_fallback():
    fleet, triton = Fleet(ready={"one", "two"}), FakeTriton()
    async with fronted(triton, fleet=fleet, fallbacks={"one": ("two",)}) as gateway:
        for attempt, model in (("1", "one"), ("2", "two"), ("junk", "one")):
            headers = {"x-envoy-attempt-count": attempt}
            await gateway.status("POST", INFER, data=body(), headers=headers)
            assert triton.paths[-1] == f"/v2/models/{model}/infer"


async def test_a_full_queue_in_triton_goes_to_the_fallback_unless_it_may_be_an_ensembles():
    rules = {"fallbacks": {"one": ("two",)}}
    triton = FakeTriton([FULL])
    async with fronted(triton, **rules) as gateway:
        _, _, headers = await gateway.status("POST", INFER, data=body())
        assert headers["tritonfleet-fallback"] == "two"
    triton, ensemble = FakeTriton([FULL]), Fleet(members={"one": ("step",)})
    async with fronted(triton, fleet=ensemble, **rules) as gateway:
        assert (await gateway.status("POST", INFER, data=body()))[0] == 503


@pytest.mark.parametrize("host", ["fleet-shadow", "fleet-shadow:8000"])
async def test_a_copy_runs_on_the_mirror_and_its_answer_is_dropped(host):
    fleet, triton = Fleet(ready={"two"}), FakeTriton()
    async with fronted(triton, fleet=fleet, mirrors={"one": "two"}) as gateway:
        path, headers = "/v2/models/one/versions/3/infer", {"Host": host}
        status, said, _ = await gateway.status("POST", path, data=body(), headers=headers)
        assert (status, said) == (204, None)
        assert fleet.asked[0][2] is True
    assert (triton.paths, triton.seen[0].body) == (["/v2/models/two/infer"], body().encode())


async def test_a_host_that_is_called_so_gets_its_answer_where_nothing_is_mirrored():
    async with fronted(FakeTriton()) as gateway:
        headers = {"Host": "fleet-shadow"}
        assert (await gateway.status("POST", INFER, data=body(), headers=headers))[0] == 200


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["nope", "..", "%2e%2e", "a%2Fb", "%00", "on%65x", "x" * 300, "%E6%A8%A1%E5%9E%8B", "%FF", "@",
     "one@2", "one%40" + "2", "%25", "one%20", "%ZZ"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_odd_names_are_no_models_and_reach_nobody(name, method):
    triton = FakeTriton()
    paths = {
        "GET": [f"/v2/models/{name}", f"/v2/models/{name}/ready", f"/v2/models/{name}/stats"],
        "POST": [f"/v2/models/{name}/infer", f"/v2/repository/models/{name}/load"],
    }
    async with fronted(triton) as gateway:
        for path in paths[method]:
            status, said, _ = await gateway.status(method, path, data=b"")
            assert status in (400, 404, 405)
            assert said["error"]
    assert triton.seen == []


PART = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="?#"))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PART, max_size=5))
async def test_no_path_reaches_triton_but_those_of_known_models(parts):
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        path = "/v2/" + "/".join(parts)
        async with gateway.call("POST", path, data=b"{}") as answer:
            assert answer.status < 500
    assert triton.seen == []


@pytest.mark.parametrize("version", ["abc", "-1", "1.5", "%31x", "9" * 20, "%D9%A1"])
async def test_a_version_that_is_no_number_is_400(version):
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        path = f"/v2/models/one/versions/{version}/infer"
        assert (await gateway.status("POST", path, data=body()))[0] == 400
    assert triton.seen == []


async def test_an_encoded_name_is_the_name():
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        assert (await gateway.status("POST", "/v2/models/%6Fne/infer", data=body()))[0] == 200
    assert triton.paths == [INFER]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", INFER, 405),
        ("DELETE", "/v2/models/one", 405),
        ("OPTIONS", INFER, 405),
        ("HEAD", "/v2/health/live", 200),
        ("GET", "/", 404),
        ("GET", "/v2/models", 404),
        ("POST", "/v2/models/one/unknown", 404),
    ],
)
async def test_methods_and_paths_that_are_not_of_the_protocol(method, path, status):
    async with fronted(FakeTriton()) as gateway:
        async with gateway.call(method, path) as answer:
            assert answer.status == status
            assert status != 405 or answer.headers["Allow"]


async def test_a_tenant_gets_its_own_models_only():
    declared = {"team": TenantSpec(models=("one",))}
    async with fronted(FakeTriton(), tenants=declared) as gateway:
        headers = {"x-tritonfleet-tenant": "team"}
        answers = [
            await gateway.status("POST", f"/v2/models/{model}/infer", data=body(), headers=headers)
            for model in ("one", "two")
        ]
        assert [status for status, _, _ in answers] == [200, 403]
        assert (await gateway.status("POST", INFER, data=body()))[0] == 403


HEAD = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    ("head", "rest"),
    [
        ("Content-Length: 50\r\n\r\nabc", b""),
        (f"Content-Length: {2 * LOOK_BYTES}\r\n\r\nabc", b""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", b""),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n", b"ZZ\r\n"),
    ],
)
async def test_an_upload_that_breaks_off_leaves_nothing_held(head, rest):
    triton = FakeTriton()
    async with fronted(triton) as gateway:
        host, _, port = gateway.url.removeprefix("http://").partition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write((HEAD + head).encode())
        await until(lambda: gateway.desk.counters.held_bytes)
        writer.write(rest)
        writer.close()
        await until(lambda: not gateway.desk.counters.held_bytes)
        assert gateway.fleet.proved == []
        assert (await gateway.status("POST", INFER, data=body()))[0] == 200
