"""Inputs and outputs as declared: names, types, dims, reshapes and label files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from repo_builder.config.tensors import volumes
from repo_builder.lint.backends import COMPLETING, ENSEMBLE
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject
from repo_builder.lint.rules.layout import unreadable

NO_TENSORS = Rule("no-tensors", "warning", "inputs or outputs left to the server")
DUPLICATE_TENSOR = Rule("duplicate-tensor", "error", "a tensor declared twice")
TENSOR_NAME = Rule("tensor-name", "error", "a tensor without a name")
TENSOR_TYPE = Rule("tensor-type", "error", "a tensor without a data type")
TENSOR_DIMS = Rule("tensor-dims", "error", "dims that no tensor can have")
RESHAPE = Rule("reshape", "error", "a reshape into another number of elements")
BATCH_SIZE = Rule("batch-size", "error", "a negative max_batch_size")
LABEL_FILE = Rule("label-file", "error", "a label file that is not there")
LABEL_COUNT = Rule("label-count", "warning", "more or fewer labels than scores")

_LARGEST_LABELS_BYTES = 64 << 20


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about the declared tensors."""
    if not subject.parsed:
        return
    config = subject.config
    if config.max_batch_size < 0:
        message = f"max_batch_size is {config.max_batch_size}"
        yield BATCH_SIZE.found(message, "0 is no batching.", "max_batch_size")
    yield from _declared_at_all(subject)
    for side in ("input", "output"):
        tensors = getattr(config, side)
        yield from _names(side, tensors)
        for tensor in tensors:
            yield from _shape(side, tensor)
    for output in config.output:
        if output.label_filename:
            yield from _labels(subject, output)


def _declared_at_all(subject: Subject) -> Iterator[Finding]:
    missing = [side for side in ("input", "output") if not getattr(subject.config, side)]
    if not missing or subject.backend not in {*COMPLETING, ENSEMBLE}:
        return
    message = f"it declares no {' and no '.join(missing)}"
    fix = "Write them all: with --disable-auto-complete-config every request would be refused."
    yield NO_TENSORS.found(message, fix, missing[0])


def _names(side: str, tensors: Any) -> Iterator[Finding]:
    for name, count in Counter(tensor.name for tensor in tensors).items():
        if not name:
            yield TENSOR_NAME.found(f"an {side} has no name", "Name it as the model does.", side)
        elif count > 1:
            message = f"{side} '{name}' is declared {count} times, which Triton loads all the same"
            yield DUPLICATE_TENSOR.found(message, "Keep one of them.", f"{side} '{name}'")


def _shape(side: str, tensor: Any) -> Iterator[Finding]:
    place = f"{side} '{tensor.name}'"
    if tensor.data_type == 0:
        message = f"{place} has no data type"
        yield TENSOR_TYPE.found(message, "Write data_type.", place)
    if not tensor.dims or any(size == 0 or size < -1 for size in tensor.dims):
        message = f"{place} has dims {list(tensor.dims)}"
        fix = "Give each dimension its size, -1 where it varies; [1] with a reshape for a scalar."
        yield TENSOR_DIMS.found(message, fix, place)
    elif tensor.HasField("reshape") and volumes(tensor.dims) != volumes(tensor.reshape.shape):
        message = f"{place} of {list(tensor.dims)} cannot become {list(tensor.reshape.shape)}"
        yield RESHAPE.found(message, "Keep the number of elements.", place)


def _labels(subject: Subject, output: Any) -> Iterator[Finding]:
    place, name = f"output '{output.name}'", output.label_filename
    path = subject.folder / name
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts or not path.is_file():
        message = f"label file '{name}' is not in the model's folder"
        yield LABEL_FILE.found(message, "Put it there, or drop label_filename.", place)
        return
    width = output.dims[-1] if output.dims else -1
    try:
        if width < 1 or path.stat().st_size > _LARGEST_LABELS_BYTES:
            return
        count = len(path.read_text(encoding="utf-8", errors="replace").splitlines())
    except OSError as error:
        yield unreadable(path, error, subject.folder)
        return
    # The labels are those of all elements, in order.
    size = math.prod(output.dims) if -1 not in output.dims else width
    if count not in (width, size):
        message = f"'{name}' has {count} labels for the {width} scores of {place}"
        yield LABEL_COUNT.found(message, "Give one line to each score, in order.", place)
