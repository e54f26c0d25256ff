"""Triton's tensor data types in numpy's terms, and how texts travel.

Open Inference Protocol, "Tensor Data Types", and Triton's binary tensor data extension.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

import numpy

NUMPY_TYPES: Mapping[str, str] = {
    "BOOL": "bool",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    **{f"INT{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
}
"""The numpy type of each data type that has one; BF16 and BYTES have none."""
BF16_BYTES = 2
DYNAMIC_SIZE = 8
"""Stands for every dimension that nobody fixes, in requests that are made up."""


def element_bytes(datatype: str) -> int:
    """The size of one element; KeyError for BYTES, whose elements have no fixed size."""
    return BF16_BYTES if datatype == "BF16" else numpy.dtype(NUMPY_TYPES[datatype]).itemsize


def encode_texts(texts: Iterable[str | bytes]) -> bytes:
    """A BYTES tensor on the wire: each text in UTF-8 behind its length, little-endian."""
    encoded = [text.encode() if isinstance(text, str) else text for text in texts]
    return b"".join(struct.pack("<I", len(text)) + text for text in encoded)


def decode_texts(raw: bytes) -> list[bytes]:
    """The texts of a BYTES tensor on the wire."""
    texts, at = [], 0
    while at < len(raw):
        (length,) = struct.unpack_from("<I", raw, at)
        texts.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return texts
