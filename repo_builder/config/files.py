"""The files that a configuration names: labels, and data for warm-ups and initial states.

Reads them where the fleet file says, and tells under which name each is published.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.tensors import NUMPY_TYPES, decode_texts, element_bytes, encode_texts
from tritonfleet.spec.serving import ServingSpec

_NPY = ".npy"


@dataclass(frozen=True, slots=True)
class DataFile:
    """The content of a data file as it is published: elements one after the other."""

    where: str
    """As the fleet file names it."""
    content: bytes
    dtype: str | None = None
    """The data type, where the file itself tells it."""
    shape: tuple[int, ...] | None = None

    @property
    def published_name(self) -> str:
        """Tells by content, so that two files of one name do not meet."""
        return f"{_plain(Path(self.where).stem)}-{_digest(self.content)}.bin"

    def misfit(self, dtype: str, dims: tuple[int, ...]) -> str | None:
        """What keeps the file from being a tensor of a type and size; None where it is one."""
        if self.dtype not in (None, dtype):
            return f"'{self.where}' holds {self.dtype}, and {dtype} is wanted"
        if self.shape not in (None, dims):
            return f"'{self.where}' has the shape {list(self.shape or ())}, not {list(dims)}"
        found, unit = (
            (_texts_in(self.content), "texts") if dtype == "BYTES" else (len(self.content), "bytes")
        )
        wanted = math.prod(dims) * (1 if dtype == "BYTES" else element_bytes(dtype))
        if found != wanted:
            return f"'{self.where}' holds {found} {unit}; {dtype} of {list(dims)} takes {wanted}"
        return None


def _plain(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", name)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:8]


def _texts_in(content: bytes) -> int:
    """How many texts the content is; -1 where it is none."""
    try:
        texts = decode_texts(content)
    except struct.error:
        return -1
    return len(texts) if encode_texts(texts) == content else -1


def read_labels(model: str, serving: ServingSpec, base: Path) -> dict[str, tuple[str, ...]]:
    """The class names that the fleet file gives, files read; InvalidModelConfig when one is not."""
    labels = {}
    for output, given in serving.labels.items():
        if not isinstance(given, str):
            labels[output] = tuple(given)
            continue
        try:
            lines = (base / given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"It is looked for relative to {base}."
            raise InvalidModelConfig(model, f"label file '{given}': {error}", hint) from error
        labels[output] = tuple(line for line in lines if line)
    return labels


def data_file_names(serving: ServingSpec) -> tuple[str, ...]:
    """Every data file that the fleet file names, each once."""
    return tuple(dict.fromkeys(_named(serving)))


def _named(serving: ServingSpec) -> Iterator[str]:
    for warmup in serving.warmup:
        yield from warmup.files.values()
    for state in serving.sequence_batching.state if serving.sequence_batching else ():
        yield from (first.data_file for first in state.initial_state if first.data_file)
    for _, alternative in serving.alternatives():
        yield from _named(alternative)


def read_data_files(model: str, serving: ServingSpec, base: Path) -> dict[str, DataFile]:
    """The content of every data file, by the name in the fleet file.

    Raises InvalidModelConfig for one that cannot be read.
    """
    return {name: _read(model, name, base) for name in data_file_names(serving)}


def _read(model: str, name: str, base: Path) -> DataFile:
    try:
        content = (base / name).read_bytes()
        return _from_npy(name, content) if name.endswith(_NPY) else DataFile(name, content)
    except (OSError, ValueError, KeyError) as error:
        hint = f"It is looked for relative to {base}; an .npy holds plain numbers or texts."
        raise InvalidModelConfig(model, f"data file '{name}': {error}", hint) from error


def _from_npy(name: str, content: bytes) -> DataFile:
    import numpy

    array = numpy.load(io.BytesIO(content), allow_pickle=False)
    shape = tuple(int(size) for size in array.shape)
    if array.dtype.kind in "US":
        return DataFile(name, encode_texts(array.ravel().tolist()), "BYTES", shape)
    dtype = {numpy_type: dtype for dtype, numpy_type in NUMPY_TYPES.items()}[array.dtype.name]
    little = array.astype(array.dtype.newbyteorder("<"))
    return DataFile(name, little.tobytes(), dtype, shape)


def label_file(output: str) -> str:
    """Where the class names of an output are published: always right beside config.pbtxt."""
    plain = _plain(output)
    # Names in a graph may hold slashes, and two of them must not become one file.
    usual = plain == output and not plain.startswith(".")
    name = plain if usual else f"{plain.lstrip('.')}-{_digest(output.encode())}"
    return f"{name}_labels.txt"


def label_texts(labels: Mapping[str, tuple[str, ...]]) -> dict[str, str | bytes]:
    """The label files by name."""
    return {label_file(output): "\n".join(names) + "\n" for output, names in labels.items()}
