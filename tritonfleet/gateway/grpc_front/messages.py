"""What we must know of the protocol's messages, read and changed without unpacking their tensors.

A request is walked field by field, because to unpack one that was made to be large would take a
multiple of its size; and it is changed by what is appended, because of a field that comes twice
protobuf takes the last one, and of a message that comes twice the sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message
from tritonclient.grpc import service_pb2

from tritonfleet.errors import InvalidRequest

MAX_FIELDS = 20_000
"""At the outermost level of a request; one that has more keeps the event loop from others."""
MAX_HEAD_BYTES = 2**20
"""Names and parameters of a request, without its tensors."""
MAX_TENSOR_HEAD_BYTES = 2**16
"""Descriptions of tensors are unpacked up to this size; larger ones are for Triton to judge."""
MAX_CONTROL_BYTES = 2**21
"""Any message that carries no tensors."""
EMPTY_FINAL = "triton_enable_empty_final_response"
FINAL = "triton_final_response"
FALLBACK_PARAMETER = "tritonfleet_fallback"
"""In an answer on a stream: the model that answered in place of the one that was asked for."""
_HEAD_FIELDS, _TENSOR_FIELDS = range(1, 5), range(5, 7)
_REQUEST = "ModelInferRequest"
_Field = tuple[int, int, int]
"""Number, beginning and end."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10


@dataclass(frozen=True, slots=True)
class Head:
    """A request without its tensors."""

    model: str
    version: str
    id: str
    timeout_s: float | None
    """The caller's own patience, if it names any."""
    sequence_id: int | str
    """0 or empty for a request that belongs to no sequence."""
    sequence_start: bool
    sequence_end: bool
    wants_empty_final: bool
    """Whether the caller wants to be told of the end in a message of its own."""


def read_head(body: bytes) -> Head:
    """What a ModelInferRequest says of itself; InvalidRequest if it is none."""
    fields = list(_fields(body))
    if _size(fields, _HEAD_FIELDS) > MAX_HEAD_BYTES:
        raise InvalidRequest(_REQUEST, f"its parameters exceed {MAX_HEAD_BYTES} bytes")
    read = _HEAD_FIELDS
    # Names and shapes of tensors, for what is wrong in them: on a stream Triton only hangs up.
    if _size(fields, _TENSOR_FIELDS) <= MAX_TENSOR_HEAD_BYTES:
        read = range(_HEAD_FIELDS.start, _TENSOR_FIELDS.stop)
    parts = [body[start:end] for number, start, end in fields if number in read]
    request = parse(service_pb2.ModelInferRequest, b"".join(parts))
    parameters = request.parameters
    timeout_us = _number(parameters, "timeout")
    return Head(
        model=request.model_name,
        version=request.model_version,
        id=request.id,
        timeout_s=timeout_us / 1e6 if timeout_us > 0 else None,
        sequence_id=_text(parameters, "sequence_id") or _number(parameters, "sequence_id"),
        sequence_start=_flag(parameters, "sequence_start"),
        sequence_end=_flag(parameters, "sequence_end"),
        wants_empty_final=_flag(parameters, EMPTY_FINAL),
    )


def parse(kind: type[Message], body: bytes) -> Any:
    """A small message; InvalidRequest if it cannot be read."""
    if len(body) > MAX_CONTROL_BYTES:
        raise InvalidRequest(kind.DESCRIPTOR.name, f"it exceeds {MAX_CONTROL_BYTES} bytes")
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise InvalidRequest(kind.DESCRIPTOR.name, str(error)) from error


def directed(body: bytes, head: Head, model: str, version: str) -> bytes:
    """A request for the model and version that are to answer it."""
    if (model, version) == (head.model, head.version):
        return body
    changed = service_pb2.ModelInferRequest(model_name=model, model_version=version)
    # Written by hand, since an empty field is one that protobuf leaves out.
    return body + bytes(changed.SerializeToString()) + (b"" if version else b"\x12\x00")


def with_empty_final(body: bytes) -> bytes:
    """A request that has Triton say in a message of its own that no further answer comes."""
    asking = service_pb2.ModelInferRequest()
    asking.parameters[EMPTY_FINAL].bool_param = True
    return body + bytes(asking.SerializeToString())


def with_fallback(answer: bytes, model: str) -> bytes:
    """An answer on a stream that says which model gave it."""
    told = service_pb2.ModelStreamInferResponse()
    told.infer_response.parameters[FALLBACK_PARAMETER].string_param = model
    return answer + bytes(told.SerializeToString())


def error_answer(text: str, request_id: str) -> bytes:
    """An error on a stream, as Triton writes it."""
    answer = service_pb2.ModelStreamInferResponse(error_message=text)
    answer.infer_response.id = request_id
    return bytes(answer.SerializeToString())


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """What we must know of an answer on a stream."""

    id: str
    error: str
    final: bool
    """Whether it is the last one to its request, as far as Triton says."""
    empty: bool
    """Whether it carries nothing but the news that it is the last one."""


def read_answer(message: bytes) -> StreamAnswer:
    """What an answer of a decoupled model is; such answers are many and small."""
    answer = service_pb2.ModelStreamInferResponse.FromString(message)
    inner = answer.infer_response
    # A request that was refused before it ran says nothing of an end.
    final = (
        _flag(inner.parameters, FINAL) if FINAL in inner.parameters else bool(answer.error_message)
    )
    empty = final and not answer.error_message and not inner.outputs
    return StreamAnswer(inner.id, answer.error_message, final, empty)


def error_of(message: bytes) -> str:
    """The error in an answer on a stream; '' if it is none. Looks at no tensor of one that is."""
    # Triton's writer puts fields in the order of their numbers, and the error is the first.
    if message[:1] != b"\x0a":
        return ""
    return str(service_pb2.ModelStreamInferResponse.FromString(message).error_message)


def _size(fields: list[_Field], numbers: range) -> int:
    return sum(end - start for number, start, end in fields if number in numbers)


def _fields(body: bytes) -> Iterator[_Field]:
    """Each outermost field."""
    at = count = 0
    while at < len(body):
        start, count = at, count + 1
        if count > MAX_FIELDS:
            raise InvalidRequest(_REQUEST, f"it has more than {MAX_FIELDS} fields")
        tag, at = _varint(body, at)
        number, kind = tag >> 3, tag & 7
        at = _after(body, at, number, kind)
        yield number, start, at


def _after(body: bytes, at: int, number: int, kind: int) -> int:
    """Where a field ends."""
    if number == 0:
        raise InvalidRequest(_REQUEST, f"no field begins at byte {at}")
    if kind == _VARINT:
        return _varint(body, at)[1]
    if kind == _BYTES:
        length, at = _varint(body, at)
        end = at + length
    elif kind in _FIXED_SIZES:
        end = at + _FIXED_SIZES[kind]
    else:
        raise InvalidRequest(_REQUEST, f"field {number} is of an unknown kind")
    if end > len(body):
        raise InvalidRequest(_REQUEST, f"field {number} ends beyond the message: it is truncated")
    return end


def _varint(body: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(body[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, at + index + 1
    raise InvalidRequest(_REQUEST, f"no number ends after byte {at}: it is truncated")


# Reading an absent key of a protobuf map would create it.
def _flag(parameters: Any, name: str) -> bool:
    return name in parameters and bool(parameters[name].bool_param)


def _number(parameters: Any, name: str) -> int:
    return (
        int(parameters[name].int64_param or parameters[name].uint64_param)
        if name in parameters
        else 0
    )


def _text(parameters: Any, name: str) -> str:
    return str(parameters[name].string_param) if name in parameters else ""
