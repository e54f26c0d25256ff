"""What an ONNX file asks of the runtime that loads it, read past its weights.

The serving side has no ``onnx``; two numbers of the outermost message are all that is wanted here.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

# Of ModelProto and OperatorSetIdProto, in onnx.proto.
_IR_VERSION, _OPSET_IMPORT = 1, 8
_DOMAIN, _VERSION = 1, 2
_VARINT, _FIXED_64, _LENGTH, _FIXED_32 = 0, 1, 2, 5
_MOST_FIELDS = 10_000
"""Of a message; a file of rubbish is given up then."""
_DEFAULT_DOMAINS = (b"", b"ai.onnx")


@dataclass(frozen=True, slots=True)
class OnnxHeader:
    """The operator set and the format."""

    opset: int
    ir_version: int


class _NotProtobuf(ValueError):
    """Bytes that are no message."""


def read_onnx_header(path: Path) -> OnnxHeader | None:
    """What a file asks for; None where it cannot be read, or is no ONNX file."""
    try:
        with path.open("rb") as file:
            return _header(file, os.fstat(file.fileno()).st_size)
    except (OSError, _NotProtobuf):
        return None


def _header(file: BinaryIO, size: int) -> OnnxHeader | None:
    opset, ir_version = 0, 0
    for number, wire, value in _fields(file, size):
        if number == _IR_VERSION and wire == _VARINT:
            ir_version = value
        elif number == _OPSET_IMPORT and wire == _LENGTH:
            opset = max(opset, _opset(file.read(value)))
    return OnnxHeader(opset, ir_version) if opset and ir_version else None


def _opset(message: bytes) -> int:
    """The version of ONNX's own operators; 0 for those of others."""
    domain, version = b"", 0
    file = io.BytesIO(message)
    for number, wire, value in _fields(file, len(message)):
        if number == _DOMAIN and wire == _LENGTH:
            domain = file.read(value)
        elif number == _VERSION and wire == _VARINT:
            version = value
    return version if domain in _DEFAULT_DOMAINS else 0


def _fields(file: BinaryIO, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, wire type and value of each field; for those with a length it, and it is next."""
    for _ in range(_MOST_FIELDS):
        if file.tell() >= end:
            return
        key = _varint(file)
        number, wire = key >> 3, key & 7
        value = _varint(file) if wire in (_VARINT, _LENGTH) else 0
        behind = file.tell() + {_LENGTH: value, _FIXED_64: 8, _FIXED_32: 4}.get(wire, 0)
        if wire not in (_VARINT, _FIXED_64, _LENGTH, _FIXED_32):
            raise _NotProtobuf
        yield number, wire, value
        file.seek(behind)
    raise _NotProtobuf


def _varint(file: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _NotProtobuf
