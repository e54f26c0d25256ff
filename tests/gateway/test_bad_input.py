"""Whatever comes in, a whole fleet answers as it should, and serves everybody else meanwhile."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.gateway.rough import (
    BODY,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SERVICE,
    SETTINGS,
    Memory,
    Traffic,
    answer_on,
    code_of,
    connected,
    declared,
    ending,
    exchange,
    field,
    fields,
    frame,
    infer_message,
    message,
    processes,
    unary,
    write_python_adder,
)
from tests.serving import serving, until
from tests.tiny import adder_fleet

pytestmark = [pytest.mark.triton, pytest.mark.envoy]

MIB = 2**20
LIMIT = 16 * MIB
Code = grpc.StatusCode
REFUSED = {Code.NOT_FOUND, Code.INVALID_ARGUMENT}


@pytest.fixture(scope="module")
def gate(tmp_path_factory):
    """The file without which the model 'gated' does not load."""
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def served(tmp_path_factory, gate):
    """Adders that all fit, one of which loads only when it is let; every process is its own."""
    path = tmp_path_factory.mktemp("fleet")
    spec = adder_fleet(path, {"one": "10MiB", "two": "10MiB"}, extra=declared("gated", "10MiB"))
    write_python_adder(path / "repository", "gated", gate=gate)
    changes = {"max_request_bytes": LIMIT, "held_request_bytes": 8 * LIMIT}
    spec = spec.model_copy(update={"settings": spec.settings.model_copy(update=changes)})
    with serving(spec, isolated=True) as fleet:
        assert fleet.add("one")[0] == 200
        yield fleet


@pytest.fixture(autouse=True)
def undisturbed(served):
    """Ordinary clients see no error beside any of this, and no process ends."""
    before = processes(served)
    with Traffic(served) as traffic:
        traffic.until_more(2)
        yield traffic
        traffic.until_more(2)
    assert not traffic.failures
    assert processes(served) == before


@pytest.fixture
def channel(served):
    options = [(f"grpc.max_{way}_message_length", -1) for way in ("send", "receive")]
    with grpc.insecure_channel(served.grpc_address, options) as channel:
        yield channel


def activator(served):
    return served.status()["activator"]


def model(served, name):
    return next(each for each in served.status()["models"] if each["name"] == name)


def runs(served, name="one"):
    """How often Triton has run a model, or refused to."""
    statistics = served.call("GET", f"/v2/models/{name}/stats")[1]["model_stats"][0]
    kinds = statistics["inference_stats"]
    return kinds["success"]["count"] + kinds["fail"]["count"]


# -- HTTP that is none -----------------------------------------------------------------------------

POST = b"POST /v2/models/two/infer HTTP/1.1\r\nHost: x\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
WHOLE = POST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


def hello():
    """What a client of TLS says first."""
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(to, fro, server_hostname="here")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return fro.read()


MALFORMED = {
    "no request line": b"\r\n\r\nnothing\r\n\r\n",
    "a request line without a path": b"GET\r\n\r\n",
    "a path with a blank": b"GET /v2 /models HTTP/1.1\r\nHost: x\r\n\r\n",
    "a method of no kind": b"G\x00T /v2 HTTP/1.1\r\nHost: x\r\n\r\n",
    "a version of no kind": b"GET /v2 HTTP/9.9\r\nHost: x\r\n\r\n",
    "HTTP/0.9": b"GET /v2\r\n",
    "a header without a colon": b"GET /v2 HTTP/1.1\r\nHost: x\r\nnothing\r\n\r\n",
    "NUL in a header's name": b"GET /v2 HTTP/1.1\r\nHost: x\r\na\x00b: c\r\n\r\n",
    "NUL in a header's value": b"GET /v2 HTTP/1.1\r\nHost: x\r\na: b\x00c\r\n\r\n",
    "a blank before the colon": b"GET /v2 HTTP/1.1\r\nHost : x\r\n\r\n",
    "no host": b"GET /v2 HTTP/1.1\r\n\r\n",
    "a length that is none": POST + b"Content-Length: many\r\n\r\n",
    "a length below zero": POST + b"Content-Length: -1\r\n\r\n",
    "a length beyond all numbers": POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a length and chunks": POST + b"Content-Length: 3\r\n" + CHUNKED + b"0\r\n\r\n",
    "an unknown transfer encoding": POST + b"Transfer-Encoding: cunning\r\n\r\n",
    "chunks without a size": POST + CHUNKED + b"zz\r\nabc\r\n0\r\n\r\n",
    "a chunk of a size below zero": POST + CHUNKED + b"-1\r\nabc\r\n",
    "a chunk without its end": POST + CHUNKED + b"1\r\nabcdef\r\n0\r\n\r\n",
    "TLS": hello(),
    "noise": random.Random(0).randbytes(4096),
    "gRPC that is none": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + b"\0" * 64,
}  # fmt: skip


@pytest.mark.parametrize("text", MALFORMED.values(), ids=MALFORMED)
@pytest.mark.parametrize("port", ["http", "grpc"])
def test_malformed_http_is_refused_and_reaches_nobody(served, port, text):
    address = served.address if port == "http" else served.grpc_address
    before = activator(served)["requests"]
    assert exchange(address, text, half_close=True) in (400, 426, 501, None)
    assert activator(served)["requests"] == before


def test_what_stands_behind_a_chunk_is_not_passed_over(served):
    assert exchange(served.address, MALFORMED["a chunk without its end"]) == 400


@pytest.mark.parametrize("version", [b"HTTP/1.0", b"HTTP/1.0\r\nHost: x"])
def test_http_1_0_is_told_to_upgrade(served, version):
    assert exchange(served.address, b"GET /v2/health/live " + version + b"\r\n\r\n") == 426


def test_a_whole_url_in_the_request_line_is_as_good_as_a_path(served):
    line = f"POST http://{served.address}/v2/models/two/infer HTTP/1.1".encode()
    text = WHOLE.replace(b"POST /v2/models/two/infer HTTP/1.1", line)
    assert exchange(served.address, text) == 200


def test_a_body_that_is_shorter_than_it_says_is_never_run(served):
    assert served.add("two")[0] == 200
    before = runs(served, "two")
    short = POST + b"Content-Length: %d\r\n\r\n%b" % (len(BODY) + 9, BODY)
    assert exchange(served.address, short, half_close=True) in (400, None)
    assert runs(served, "two") == before


def test_a_body_that_is_longer_than_it_says_is_no_second_request(served):
    long = WHOLE + b"}" * 20 + b"\r\n\r\n"
    with connected(served.address) as wire:
        wire.sendall(long)
        stream = b""
        with contextlib.suppress(OSError):
            while chunk := wire.recv(2**16):
                stream += chunk
    assert stream.startswith(b"HTTP/1.1 200")
    assert stream.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 400" in stream


def test_requests_sent_in_one_go_are_answered_in_order(served):
    with connected(served.address) as wire:
        wire.sendall(WHOLE + WHOLE.replace(b"two", b"not") + WHOLE)
        stream = wire.makefile("rb")
        found = []
        while len(found) < 3:
            line = stream.readline()
            assert line, found
            if line.startswith(b"HTTP/1.1 "):
                found.append(int(line.split()[1]))
            elif b"HTTP/1.1 " in line:  # a body without a newline at its end
                found.append(int(line.split(b"HTTP/1.1 ")[1].split()[0]))
    assert found == [200, 404, 200]


@pytest.mark.parametrize("method", ["CONNECT", "OPTIONS", "TRACE", "PUT", "DELETE", "PATCH", "NO"])
def test_a_method_that_means_nothing_here_is_a_clients_error(served, method):
    text = f"{method} /v2/models/one/infer HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    status = exchange(served.address, text)
    assert status is None or 400 <= status < 500


# -- names -----------------------------------------------------------------------------------------

NAMES = {
    "slash": "one/two",
    "up and away": "../../etc/passwd",
    "blank": " ",
    "NUL": "one\0",
    "long": "m" * 300,
    "very long": "m" * 5000,
    "Cyrillic": "модель",
    "Han": "模型",
    "line break": "one\r\nx-evil: 1",
    "quotes": "'one\"",
    "pattern": "o*",
    "percent": "%6fne",
    "brackets": "{model}<script>",
    "bar": "one|two",
    "half a surrogate's place": "\uffff",
}
PAGES = ("", "/ready", "/config", "/stats", "/versions/1", "/versions/1/ready", "/trace/setting")


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_of_no_model_is_refused_over_http_in_tritons_form(served, name):
    path = f"/v2/models/{quote(name, safe='')}"
    asked = [("GET", path + page) for page in PAGES]
    asked += [("POST", path + "/infer"), ("POST", path + "/versions/1/generate")]
    asked += [("POST", f"/v2/repository/models/{quote(name, safe='')}/{verb}") for verb in
              ("load", "unload")]  # fmt: skip
    for method, where in asked:
        status, answer, _ = served.call(method, where, {} if method == "POST" else None)
        assert status in (400, 404), where
        assert set(answer) == {"error"}, where


@pytest.mark.parametrize(
    "path",
    [
        "/v2/models/one%2Finfer",
        "/v2/models/one/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/v2/models/%2F/infer",
        "/v2/models/one%00/infer",
        "/v2/models/../infer",
        "/v2/models/./infer",
        "/v2/models/one%5Cinfer",
        "/v2/models/..%5Cone/infer",
        "/v2/models/one/infer%",
        "/v2/models/%ff%fe/infer",
        "/v2/models/one/versions/99999999999999999999999/infer",
        "/v2/models/one/versions/-1/infer",
        "/v2/models/one/versions/x/infer",
        "/v2/models/one/versions//infer",
        "/v2/models//infer",
        "//v2//models//nothing//infer",
    ],
)
def test_a_path_that_leads_nowhere_is_refused(served, path):
    text = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    assert exchange(served.address, text) in (400, 404, 405)


@pytest.mark.parametrize(
    "path", ["/v2/models/one\\infer", "/v2/models/not/../one/infer", "/v2//models//one//infer"]
)
def test_another_spelling_of_a_path_is_that_path(served, path):
    text = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
    assert exchange(served.address, text) == 200


def test_raw_bytes_in_a_path_are_refused(served):
    for raw in ("модель".encode(), b"\xff\xfe", b"one\x7f", b"on\te"):
        text = b"GET /v2/models/" + raw + b" HTTP/1.1\r\nHost: x\r\n\r\n"
        assert exchange(served.address, text) in (400, 404)


def named(name):
    """A question of every kind about a model, by method."""
    pb = service_pb2
    return {
        "ModelInfer": infer_message(name),
        "ModelMetadata": pb.ModelMetadataRequest(name=name),
        "ModelConfig": pb.ModelConfigRequest(name=name),
        "ModelStatistics": pb.ModelStatisticsRequest(name=name),
        "TraceSetting": pb.TraceSettingRequest(model_name=name),
        "RepositoryModelLoad": pb.RepositoryModelLoadRequest(model_name=name),
        "RepositoryModelUnload": pb.RepositoryModelUnloadRequest(model_name=name),
    }


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_of_no_model_is_refused_over_grpc(channel, name):
    for method, question in named(name).items():
        code = code_of(unary(channel, method), question.SerializeToString(), timeout=30)
        assert code in REFUSED, method
    ready = unary(channel, "ModelReady")(
        service_pb2.ModelReadyRequest(name=name).SerializeToString()
    )
    assert not service_pb2.ModelReadyResponse.FromString(ready).ready


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_name_of_no_model_is_refused_in_a_stream_and_the_stream_goes_on(channel, name):
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
    questions = [infer_message(name), infer_message("two")]
    answers = stream(iter(each.SerializeToString() for each in questions), timeout=60)
    first, second = map(service_pb2.ModelStreamInferResponse.FromString, answers)
    assert "unknown model" in first.error_message
    assert not second.error_message


# -- messages --------------------------------------------------------------------------------------

WELL = infer_message("two", id="7").SerializeToString()
METHODS = (*named("two"), "ModelReady", "RepositoryIndex", "LogSettings",
           "SystemSharedMemoryStatus", "SystemSharedMemoryRegister")  # fmt: skip
BAD_MESSAGE = {Code.INTERNAL, Code.INVALID_ARGUMENT, Code.NOT_FOUND}


@pytest.mark.parametrize("length", range(1, len(WELL), 3))
def test_a_message_that_is_cut_off_is_refused(channel, length):
    code = code_of(unary(channel, "ModelInfer"), WELL[:length], timeout=30)
    assert code in BAD_MESSAGE


def test_an_empty_message_names_no_model(channel):
    assert code_of(unary(channel, "ModelInfer"), b"", timeout=30) in REFUSED


@pytest.mark.parametrize("method", METHODS)
def test_noise_in_place_of_a_message_is_refused(channel, method):
    code = code_of(unary(channel, method), b"\xff" * 500, timeout=30)
    assert code in {Code.INTERNAL, Code.INVALID_ARGUMENT}


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_message_of_random_bytes_is_more_than_refused(channel, data):
    method = data.draw(st.sampled_from(METHODS))
    noise = data.draw(st.one_of(st.binary(max_size=300), mutated()))
    code = code_of(unary(channel, method), noise, timeout=30)
    assert code not in {Code.UNKNOWN, Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.ABORTED}


@st.composite
def mutated(draw):
    """A good request with some of its bytes changed, left out or doubled."""
    text = bytearray(WELL)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text) - 1))
        text[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(text)


def opened(**more):
    """The headers of a call that goes on."""
    return frame(HEADERS, fields(**more), flags=END_HEADERS, stream=1)


def alone(**more):
    """The headers of a call that ends with them."""
    return frame(HEADERS, fields(**more), flags=END_HEADERS | END_STREAM, stream=1)


def said(payload):
    """Data with which a call ends."""
    return frame(DATA, payload, flags=END_STREAM, stream=1)


def sized(size):
    """A message that says so of itself."""
    return said(message(WELL, size=size))


HUGE = struct.pack(">I", 2**24 - 1)[1:] + bytes((DATA, 0)) + b"\0\0\0\1"
MISFRAMED = {
    "no message": [alone()],
    "a size beyond the end": [opened(), sized(len(WELL) + 9)],
    "a size before the end": [opened(), sized(len(WELL) - 9)],
    "a size of 4 GiB": [opened(), sized(2**32 - 1)],
    "half a prefix": [opened(), said(b"\0\0")],
    "compressed in no way that was named": [opened(), said(message(WELL, flag=1))],
    "a flag of no kind": [opened(), said(message(WELL, flag=7))],
    "two messages": [opened(), said(message(WELL) * 2)],
    "no content type": [opened(content_type=None), said(message(WELL))],
    "another content type": [opened(content_type="text/html"), said(message(WELL))],
    "a method of HTTP": [alone(__method="GET")],
    "no path": [alone(__path=None)],
    "an unknown service": [opened(__path="/no.Service/Method"), said(message(WELL))],
    "an unknown encoding": [opened(grpc_encoding="zip"), said(message(WELL, flag=1))],
    "a deadline that is none": [opened(grpc_timeout="soon"), said(message(WELL))],
    "data before headers": [said(message(WELL))],
    "data on no stream": [frame(DATA, message(WELL), flags=END_STREAM)],
    "headers that cannot be read": [frame(HEADERS, b"\xff" * 64, flags=END_HEADERS, stream=1)],
    "an even stream": [frame(HEADERS, fields(), flags=END_HEADERS | END_STREAM, stream=2)],
    "a frame larger than allowed": [HUGE],
    "a ping of the wrong size": [frame(PING, b"12345")],
    "settings of the wrong size": [frame(SETTINGS, b"12345")],
    "headers without an end": [
        frame(HEADERS, stream=1),
        *[frame(CONTINUATION, fields(x="y" * 100), stream=1)] * 5000,
    ],
}


@pytest.mark.parametrize("frames", MISFRAMED.values(), ids=MISFRAMED)
@pytest.mark.parametrize("state", ["warm", "gated"])
def test_wrong_framing_ends_its_stream_or_its_connection(served, state, frames):
    if state == "warm":
        assert served.add("two")[0] == 200
    else:
        served.call("POST", "/v2/repository/models/two/unload")
    assert ending(served.grpc_address, *frames) in ("answered", "reset", "goaway", "closed")


UNREADABLE = [
    ("grpc-timeout", "soon"),
    ("grpc-timeout", "123456789S"),
    ("grpc-encoding", "zip"),
    ("foo-bin", "!!!*"),
    ("foo-bin", "YR=="),
    ("grpc-previous-rpc-attempts", "x"),
    ("te", "gzip"),
]


@pytest.mark.parametrize("trailing", [False, True], ids=["in front", "behind"])
@pytest.mark.parametrize("header", UNREADABLE, ids=": ".join)
def test_a_header_that_cannot_be_read_fails_its_own_call_alone(served, channel, trailing, header):
    more = field(*header)
    if trailing:
        end = frame(HEADERS, more, flags=END_HEADERS | END_STREAM, stream=1)
        frames = [opened(), frame(DATA, message(WELL), stream=1), end]
    else:
        begin = frame(HEADERS, fields(te=None) + more, flags=END_HEADERS, stream=1)
        frames = [begin, said(message(WELL))]
    for state in ("load", "unload"):
        served.call("POST", f"/v2/repository/models/two/{state}")
        for _ in range(12):  # on some connection of each of Envoy's workers
            ending(served.grpc_address, *frames)
        for number in range(30):
            options = {"timeout": 20 + number / 7, "metadata": [("foo-bin", b"abc")]}
            compression = grpc.Compression.Gzip if number % 2 else None
            unary(channel, "ModelInfer")(WELL, **options, compression=compression)


@pytest.mark.parametrize("header", ["grpc-timeout: 1S", "grpc-encoding: gzip"])
def test_the_second_of_two_headers_is_looked_at_as_well(served, channel, header):
    assert served.add("two")[0] == 200
    name, well = header.split(": ")
    more = field(name, well) + field(name, "wrong")
    begin = frame(HEADERS, fields() + more, flags=END_HEADERS, stream=1)
    before = runs(served, "two")
    for _ in range(12):
        ending(served.grpc_address, begin, said(message(WELL)))
    assert runs(served, "two") == before
    for number in range(10):
        unary(channel, "ModelInfer")(WELL, timeout=20 + number, compression=grpc.Compression.Gzip)


# -- JSON and tensors ------------------------------------------------------------------------------

BODIES = {
    "empty": b"",
    "no JSON": b"\x80\x81\x82",
    "half": BODY[:30],
    "another type": b"[]",
    "null": b"null",
    "deep": b"[" * 100_000,
    "no inputs": b"{}",
    "inputs of no kind": b'{"inputs": 7}',
    "wrong shape": BODY.replace(b"[1,4]", b"[-1,4]"),
    "a timeout of no kind": BODY[:-1] + b',"parameters":{"timeout":"soon"}}',
    "a timeout below zero": BODY[:-1] + b',"parameters":{"timeout":-5}}',
}
HEADERS_OF_BODIES = {
    **{f"JSON of length {n}": f"Inference-Header-Content-Length: {n}"
       for n in ("-1", "x", "999999999", "0", "30", "9" * 30)},
    **{f"compressed by {what}": f"Content-Encoding: {what}"
       for what in ("gzip", "deflate", "br", "nothing")},
}  # fmt: skip


def directly(served, text):
    """What Triton itself says to the same bytes."""
    return exchange(served.endpoint("local").http.removeprefix("http://"), text)


@pytest.mark.parametrize("state", ["load", "unload"])
@pytest.mark.parametrize(
    ("header", "body"),
    [*[("a: b", body) for body in BODIES.values()],
     *[(header, BODY) for header in HEADERS_OF_BODIES.values()]],
    ids=[*BODIES, *HEADERS_OF_BODIES],
)  # fmt: skip
def test_what_makes_no_sense_is_answered_as_triton_does_warm_or_cold(served, state, header, body):
    text = POST + header.encode() + b"\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    served.call("POST", f"/v2/repository/models/two/{state}")
    status = exchange(served.address, text)
    # It says 500 of JSON that cannot be parsed, and 501 of an unknown compression.
    assert status in (400, 500, 501)
    assert status == directly(served, text)


def test_a_body_in_a_million_chunks_is_one_body_to_triton(served):
    first, rest = BODY[:1], BODY[1:]
    with connected(served.address, timeout=60) as wire:
        wire.sendall(POST + CHUNKED + b"1\r\n" + first + b"\r\n")
        for _ in range(100):
            wire.sendall(b"1\r\n \r\n" * 10_000)
        wire.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(rest), rest))
        assert answer_on(wire) == 200


paths = st.one_of(
    st.sampled_from(["/v2", "/v2/models/two", "/v2/models/two/infer", "/v2/models/stats", "/v2/",
                     "/v2/repository/index", "/v2/logging", "/v2/trace/setting", "/v2/models/one/x",
                     "/v2/models/two/versions/1/infer", "/v2/systemsharedmemory/status"]),
    st.lists(st.text(max_size=12).map(lambda part: quote(part, safe="")), max_size=6).map(
        lambda parts: "/v2/" + "/".join(parts)
    ),
)  # fmt: skip
header_names = st.sampled_from(
    ["Content-Type", "Content-Encoding", "Inference-Header-Content-Length", "tritonfleet-class",
     "tritonfleet-timeout-ms", "tritonfleet-strict", "x-request-id", "x-envoy-attempt-count",
     "Accept", "Expect", "Range", "x-tritonfleet-model", "Accept-Encoding"]
)  # fmt: skip
printable = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40)


@given(
    method=st.sampled_from(["GET", "POST", "PUT", "HEAD", "DELETE", "OPTIONS"]),
    path=paths,
    headers=st.dictionaries(header_names, printable, max_size=4),
    body=st.one_of(st.binary(max_size=200), st.just(BODY), st.none()),
)
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_no_random_request_is_our_fault(served, method, path, headers, body):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", "Connection: close"]
    lines += [f"{name}: {value.strip()}" for name, value in headers.items()]
    lines += [f"Content-Length: {len(body)}"] if body is not None else []
    text = "\r\n".join([*lines, "", ""]).encode() + (body or b"")
    with connected(served.address) as wire:
        wire.sendall(text)
        answer = wire.makefile("rb").read()
    status = int(answer.split()[1])
    deadline = "tritonfleet-timeout-ms" in headers
    # Triton's own words for JSON that cannot be parsed, and for compression that it does not know.
    tritons = b"parse" in answer or b"Unsupported compression" in answer
    assert status < 500 or tritons or (status == 504 and deadline), answer


# -- too much --------------------------------------------------------------------------------------


def flood(address, head, chunk, count):
    """(status, bytes that were taken) of a body that is sent whether or not it is wanted."""
    with connected(address, timeout=60) as wire:
        wire.sendall(head)
        sent, answered = 0, threading.Event()

        def send():
            nonlocal sent
            with contextlib.suppress(OSError):
                for _ in range(count):
                    if answered.is_set():
                        return
                    wire.sendall(chunk)
                    sent += len(chunk)

        sender = threading.Thread(target=send)
        sender.start()
        status = answer_on(wire)
        answered.set()
        with contextlib.suppress(OSError):
            wire.shutdown(socket.SHUT_RDWR)
        sender.join()
    return status, sent


GIGABYTE = 2**30
CHUNK = b"100000\r\n" + b"0" * MIB + b"\r\n"


@pytest.mark.parametrize("path", ["/v2/models/two/infer", "/v2/models/gated/infer",
                                  "/v2/repository/index", "/v2/models/nothing/infer"])  # fmt: skip
@pytest.mark.parametrize("way", ["declared", "in chunks"])
def test_a_gigabyte_is_refused_long_before_it_is_there(served, path, way):
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\n".encode()
    declared_ = way == "declared"
    head += b"Content-Length: %d\r\n\r\n" % GIGABYTE if declared_ else CHUNKED
    with Memory(served) as memory:
        status, sent = flood(served.address, head, b"0" * MIB if declared_ else CHUNK, 1024)
    # A connection that was reset may have lost the answer on its way.
    assert status in (413, None)
    assert sent < 4 * LIMIT
    assert memory.growth["envoy"] < 6 * LIMIT
    assert memory.growth["brain"] < 2 * LIMIT
    assert memory.growth["tritonserver"] < 2 * LIMIT


def test_many_bodies_that_are_too_large_at_once_cost_no_more_than_their_limit_each(served):
    head = POST + b"Content-Length: %d\r\n\r\n" % GIGABYTE
    with Memory(served) as memory, ThreadPoolExecutor(8) as clients:
        outcomes = list(
            clients.map(lambda _: flood(served.address, head, b"0" * MIB, 1024), range(8))
        )
    assert {status for status, _ in outcomes} <= {413, None}
    assert memory.growth["envoy"] < 8 * 3 * LIMIT
    assert memory.growth["brain"] < 2 * LIMIT


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStatistics"])
def test_a_message_that_is_too_large_is_refused(served, channel, method):
    large = bytes(LIMIT + MIB)
    with Memory(served) as memory:
        code = code_of(unary(channel, method), large, timeout=60)
    assert code == Code.RESOURCE_EXHAUSTED
    assert memory.growth["brain"] < 2 * LIMIT


def test_a_message_that_is_too_large_is_refused_in_a_stream(served, channel):
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
    with Memory(served) as memory, pytest.raises(grpc.RpcError) as caught:
        list(stream(iter([bytes(LIMIT + MIB)]), timeout=60))
    assert caught.value.code() == Code.RESOURCE_EXHAUSTED
    assert memory.growth["brain"] < 4 * LIMIT


@pytest.mark.parametrize(
    "headers",
    [
        b"a: " + b"b" * 100_000 + b"\r\n",
        b"".join(b"a%d: b\r\n" % n for n in range(200)),
        b"".join(b"a%d: %b\r\n" % (n, b"b" * 1000) for n in range(90)),
    ],
    ids=["one that is long", "many that are short", "many that are long"],
)
def test_too_many_headers_are_refused(served, headers):
    assert exchange(served.address, POST + headers + b"\r\n") == 431


def test_a_path_that_is_too_long_is_refused(served):
    text = b"GET /v2/models/" + b"m" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"
    assert exchange(served.address, text) in (400, 414, 431)


@pytest.mark.parametrize("count", [1, 200])
def test_too_much_metadata_is_refused(channel, count):
    metadata = [(f"a{n}", "b" * (100_000 // count)) for n in range(count)]
    code = code_of(unary(channel, "ModelInfer"), WELL, metadata=metadata, timeout=30)
    assert code not in (Code.OK, Code.DEADLINE_EXCEEDED)


# -- slow, idle and gone ---------------------------------------------------------------------------


@contextlib.contextmanager
def connections(address, count, text=b""):
    """So many connections on each of which only this has been said."""
    with contextlib.ExitStack() as stack:
        wires = [stack.enter_context(connected(address, timeout=60)) for _ in range(count)]
        for wire in wires:
            wire.sendall(text)
        yield wires


def test_a_thousand_idle_connections_cost_nobody_anything(served, undisturbed):
    with connections(served.address, 500), connections(served.grpc_address, 500):
        undisturbed.until_more(20)
        assert served.add("two")[0] == 200


def test_headers_that_trickle_in_are_waited_for_in_vain(served, undisturbed):
    before = activator(served)["requests"]
    with connections(served.address, 200, b"POST /v2/models/gated/infer HTTP/1.1\r\nHo") as wires:
        undisturbed.until_more(20)
        assert activator(served)["requests"] == before
        assert {answer_on(wire) for wire in wires} <= {408, None}


@pytest.mark.parametrize("name", ["two", "gated"])
def test_bodies_that_trickle_in_occupy_nobody_but_envoy(served, undisturbed, name):
    assert served.add("two")[0] == 200
    before = activator(served)
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{{"
    with connections(served.address, 200, head.encode()):
        undisturbed.until_more(20)
        assert activator(served) == before
        assert served.add("two")[0] == 200
        assert model(served, name)["waiting"] == model(served, name)["in_use"] == 0


def test_messages_that_trickle_in_occupy_nobody_but_envoy(served, undisturbed):
    before = activator(served)
    begun = PREFACE + frame(SETTINGS) + opened() + frame(DATA, message(WELL)[:9], stream=1)
    with connections(served.grpc_address, 200, begun):
        undisturbed.until_more(20)
        assert activator(served) == before


@pytest.mark.parametrize("name", ["two", "gated"])
def test_a_client_that_leaves_in_the_middle_of_its_upload_is_never_heard(served, name):
    assert served.add("two")[0] == 200
    before, ran = activator(served), runs(served, "two")
    head = f"POST /v2/models/{name}/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {8 * MIB}\r\n\r\n"
    with Memory(served) as memory:
        for _ in range(30):
            with connections(served.address, 1, head.encode() + b" " * MIB):
                pass
    assert runs(served, "two") == ran
    assert activator(served)["requests"] == before["requests"]
    assert activator(served)["held_bytes"] == 0
    assert memory.growth["envoy"] < 30 * 2 * MIB


def waiting(served):
    return model(served, "gated")["waiting"]


def ask_gated():
    return b"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (
        len(BODY),
        BODY,
    )


def test_clients_that_leave_while_they_wait_for_a_model_are_forgotten(served, gate):
    with connections(served.address, 20, ask_gated()):
        until(lambda: waiting(served) == 20)
        assert activator(served)["held"] == 20
    until(lambda: waiting(served) == 0)
    assert activator(served)["held"] == activator(served)["held_bytes"] == 0


def test_calls_that_are_cancelled_while_they_wait_for_a_model_are_forgotten(served, channel, gate):
    message_ = infer_message("gated").SerializeToString()
    calls = [unary(channel, "ModelInfer").future(message_) for _ in range(20)]
    until(lambda: waiting(served) == 20)
    for call in calls:
        call.cancel()
    until(lambda: waiting(served) == 0)
    assert activator(served)["held_bytes"] == 0


def test_streams_that_are_cancelled_while_they_wait_for_a_model_are_forgotten(served, channel):
    message_ = infer_message("gated").SerializeToString()
    stream = channel.stream_stream(SERVICE + "ModelStreamInfer")
    calls = [stream(iter([message_])) for _ in range(20)]
    until(lambda: waiting(served) == 20)
    for call in calls:
        call.cancel()
    until(lambda: waiting(served) == 0)
    assert activator(served)["held_bytes"] == 0


def test_what_waits_is_bounded_in_bytes_and_more_is_refused_at_once(served):
    body = BODY + b" " * (LIMIT - 2 * len(BODY))
    text = (
        b"POST /v2/models/gated/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    ) + body
    with Memory(served) as memory, contextlib.ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(connections(served.address, 1, text))
        until(lambda: activator(served)["held_bytes"] > 7 * LIMIT)
        assert exchange(served.address, text) == 503
    assert memory.growth["brain"] < 3 * LIMIT
    until(lambda: activator(served)["held_bytes"] == 0)


def test_once_the_model_may_load_those_who_still_wait_are_answered(served, gate):
    with connections(served.address, 3, ask_gated()) as stay:
        with connections(served.address, 3, ask_gated()):
            until(lambda: waiting(served) == 6)
        until(lambda: waiting(served) == 3)
        gate.touch()
        assert [answer_on(wire) for wire in stay] == [200, 200, 200]
    assert model(served, "gated")["in_use"] == 0
