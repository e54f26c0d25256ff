"""Ordinary clients that must not notice, rough ones that nobody should notice, and bare wires."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import struct
import textwrap
import threading
from collections import Counter

import grpc
import numpy
import psutil
from tritonclient.grpc import service_pb2

from tests.serving import until

SERVICE = "/inference.GRPCInferenceService/"
BODY = b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[1,2,3,4]}]}'
_X = numpy.array([1, 2, 3, 4], numpy.float32)
_PYTHON = """\
import os, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        while {gate!r} and not os.path.exists({gate!r}):
            time.sleep(0.01)

    def execute(self, requests):
        time.sleep({busy_s})
        given = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("y", x.as_numpy() + {amount})])
            for x in given
        ]

    def finalize(self):
        time.sleep({leaves_in_s})
"""


def write_python_adder(repository, name, *, amount=0.0, gate="", busy_s=0.0, leaves_in_s=0.0):
    """Publishes an adder in Python; it loads once the file ``gate`` exists, where one is named."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    code = _PYTHON.format(gate=str(gate), amount=amount, busy_s=busy_s, leaves_in_s=leaves_in_s)
    (version / "model.py").write_text(code)
    (repository / name / "config.pbtxt").write_text(
        textwrap.dedent(f"""\
        name: "{name}"
        backend: "python"
        max_batch_size: 8
        input [ {{ name: "x" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        output [ {{ name: "y" data_type: TYPE_FP32 dims: [ 4 ] }} ]
        instance_group [ {{ count: 1 kind: KIND_CPU }} ]
        """)
    )


def declared(name, footprint):
    """A model for the end of the fleet file of ``tests.tiny.adder_fleet``."""
    return f"  {name}:\n    residency: {{footprint: {footprint}}}\n    source: *adder\n"


# -- ordinary clients ------------------------------------------------------------------------------


def infer_message(model="one", **fields):
    """A request to an adder, as a message."""
    request = service_pb2.ModelInferRequest(model_name=model, **fields)
    request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
    request.raw_input_contents.append(_X.tobytes())
    return request


class Traffic:
    """Ordinary clients of one adder, over HTTP and gRPC, until the block ends."""

    def __init__(self, served, model="one", *, amount=1.0, clients=1):
        self._served, self._model, self._sum = served, model, (_X + amount).tolist()
        self.outcomes, self._stop = Counter(), threading.Event()
        kinds = [self._over_http, self._over_grpc] * clients
        self._threads = [threading.Thread(target=kind) for kind in kinds]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def answered(self):
        """How many were answered well."""
        return self.outcomes["http 200"] + self.outcomes["grpc OK"]

    @property
    def failures(self):
        """What else they saw, and how often."""
        return {what: n for what, n in self.outcomes.items() if what not in ("http 200", "grpc OK")}

    def until_more(self, count=5):
        """Returns once so many more were answered well over each protocol."""
        for what in ("http 200", "grpc OK"):
            wanted = self.outcomes[what] + count
            until(lambda what=what, wanted=wanted: self.outcomes[what] >= wanted, 60)

    def _over_http(self):
        connection = http.client.HTTPConnection(self._served.address, timeout=60)
        while not self._stop.wait(0.002):
            self.outcomes[f"http {self._asked(connection)}"] += 1
        connection.close()

    def _asked(self, connection):
        try:
            connection.request("POST", f"/v2/models/{self._model}/infer", BODY)
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            connection.close()
            return "connection lost"
        if answer.status == 200:
            assert json.loads(text)["outputs"][0]["data"] == self._sum
        return answer.status

    def _over_grpc(self):
        with grpc.insecure_channel(self._served.grpc_address) as channel:
            ask = unary(channel, "ModelInfer")
            message = infer_message(self._model).SerializeToString()
            while not self._stop.wait(0.002):
                self.outcomes[f"grpc {self._called(ask, message)}"] += 1

    def _called(self, ask, message):
        try:
            answer = service_pb2.ModelInferResponse.FromString(ask(message, timeout=60))
        except grpc.RpcError as error:
            return error.code().name
        assert numpy.frombuffer(answer.raw_output_contents[0], numpy.float32).tolist() == self._sum
        return "OK"


def unary(channel, method):
    """A method of Triton's service that takes and gives bytes."""
    return channel.unary_unary(SERVICE + method)


def code_of(call, *arguments, **options):
    """The status of a call."""
    try:
        call(*arguments, **options)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


# -- processes -------------------------------------------------------------------------------------


def processes(served):
    """The processes of an isolated fleet, by name; None for one that is away."""
    envoy, server = served.fleet.envoy.running, served.endpoint("local")
    return {
        "envoy": envoy and envoy.pid,
        "brain": served.fleet.brain.pid,
        "tritonserver": server and server.pid,
    }


class Memory:
    """How much each process grows while the block runs, at most, in bytes."""

    def __init__(self, served):
        self._processes = {name: psutil.Process(pid) for name, pid in processes(served).items()}
        self.growth, self._stop = dict.fromkeys(self._processes, 0), threading.Event()
        self._before = self._sizes()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _watch(self):
        while not self._stop.wait(0.02):
            for name, size in self._sizes().items():
                self.growth[name] = max(self.growth[name], size - self._before[name])

    def _sizes(self):
        return {name: each.memory_info().rss for name, each in self._processes.items()}


# -- bare wires ------------------------------------------------------------------------------------


def connected(address, timeout=20):
    """A bare TCP connection to ``host:port``."""
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=timeout)


def exchange(address, data, *, half_close=False):
    """All that comes back for these bytes until the other side closes or has answered once."""
    with connected(address) as wire:
        with contextlib.suppress(OSError):  # closed while we were still talking
            wire.sendall(data)
            if half_close:
                wire.shutdown(socket.SHUT_WR)
        return answer_on(wire)


def answer_on(wire):
    """One HTTP/1 answer, or whatever came before the connection was closed; "" for nothing."""
    answer = http.client.HTTPResponse(wire)
    try:
        answer.begin()
        answer.read()
    except (OSError, http.client.HTTPException):
        return None
    return answer.status


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, payload=b"", *, flags=0, stream=0):
    """One frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(
        ">I", stream
    ) + payload  # fmt: skip


def fields(**more):
    """A header block for a unary call, written out in full; None leaves a header out."""
    block = {
        ":method": "POST",
        ":scheme": "http",
        ":path": SERVICE + "ModelInfer",
        ":authority": "here",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    block.update({name.replace("__", ":").replace("_", "-"): text for name, text in more.items()})
    return b"".join(field(name, text) for name, text in block.items() if text is not None)


def field(name, text):
    """One header, written out in full."""
    return b"\0" + bytes((len(name),)) + name.encode() + bytes((len(text),)) + text.encode()


def message(payload, *, flag=0, size=None):
    """One message of gRPC, perhaps with a false size or flag."""
    return struct.pack(">BI", flag, len(payload) if size is None else size) + payload


def ending(address, *frames):
    """How stream 1 of an HTTP/2 connection ends: 'answered', 'reset', 'goaway' or 'closed'."""
    with connected(address) as wire:
        with contextlib.suppress(OSError):
            wire.sendall(PREFACE + frame(SETTINGS) + b"".join(frames))
        return _ending(wire)


def _ending(wire):
    while True:
        try:
            head = _exactly(wire, 9)
            kind, flags = head[3], head[4]
            _exactly(wire, int.from_bytes(head[:3], "big"))
        except ConnectionError:
            return "closed"
        stream = int.from_bytes(head[5:9], "big")
        if kind == GOAWAY:
            return "goaway"
        if stream == 1 and kind == RST_STREAM:
            return "reset"
        if stream == 1 and kind in (DATA, HEADERS) and flags & END_STREAM:
            return "answered"


def _exactly(wire, count):
    data = b""
    while len(data) < count:
        chunk = wire.recv(count - len(data))
        if not chunk:
            raise ConnectionResetError
        data += chunk
    return data
