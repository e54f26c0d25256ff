"""Warm-up requests: a wrong one fails the load, a wild one proves nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from repo_builder.config.message import WARMUP_FOLDER
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject
from tritonfleet.errors import did_you_mean
from tritonfleet.server.pbtxt import datatype

WARMUP_INPUTS = Rule("warmup-inputs", "error", "a warm-up without all inputs, or with others")
WARMUP_SHAPE = Rule("warmup-shape", "error", "a warm-up of another type or shape")
WARMUP_BATCH = Rule("warmup-batch", "error", "a warm-up beyond max_batch_size")
WARMUP_FILE = Rule("warmup-file", "error", "a warm-up file that is not there")
WARMUP_RANDOM = Rule("warmup-random", "warning", "a warm-up with random numbers of any size")


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about warm-up requests."""
    config = subject.config
    inputs = {tensor.name: tensor for tensor in config.input}
    for index, warmup in enumerate(config.model_warmup):
        place = f"model_warmup[{index}]"
        if warmup.batch_size > max(config.max_batch_size, 1):
            message = f"batch_size {warmup.batch_size} is above max_batch_size"
            yield WARMUP_BATCH.found(f"{message} {config.max_batch_size}", "Lower it.", place)
        if inputs:
            yield from _inputs(warmup, inputs, place)
        for name in sorted(warmup.inputs):
            yield from _data(subject, warmup.inputs[name], f"{place}.inputs '{name}'")


def _inputs(warmup: Any, inputs: dict[str, Any], place: str) -> Iterator[Finding]:
    required = {name for name, tensor in inputs.items() if not tensor.optional}
    for name in sorted(required - set(warmup.inputs)):
        message = f"it does not give input '{name}', so the load fails"
        yield WARMUP_INPUTS.found(message, "Give every input that is not optional.", place)
    for name in sorted(warmup.inputs):
        if name not in inputs:
            guess = did_you_mean(name, inputs)
            fix = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(inputs)}."
            yield WARMUP_INPUTS.found(f"it gives '{name}', which is no input", fix, place)
            continue
        yield from _shape(warmup.inputs[name], inputs[name], f"{place}.inputs '{name}'")


def _shape(given: Any, declared: Any, place: str) -> Iterator[Finding]:
    if given.data_type != declared.data_type:
        message = f"{datatype(given.data_type)} for an input of {datatype(declared.data_type)}"
        yield WARMUP_SHAPE.found(message, "Write the input's own data_type.", place)
    fits = len(given.dims) == len(declared.dims) and all(
        got > 0 and want in (-1, got) for got, want in zip(given.dims, declared.dims, strict=True)
    )
    if not fits:
        message = f"dims {list(given.dims)} for an input of {list(declared.dims)}"
        yield WARMUP_SHAPE.found(message, "Write one size for each, without the batch.", place)


def _data(subject: Subject, given: Any, place: str) -> Iterator[Finding]:
    if given.random_data:
        message = "random_data fills in any bits: ids beyond the vocabulary, floats of 1e31"
        yield WARMUP_RANDOM.found(message, "Use zero_data, or an input_data_file.", place)
    name = given.input_data_file
    if not name:
        return
    inside = not PurePath(name).is_absolute() and ".." not in PurePath(name).parts
    if not inside or not (subject.folder / WARMUP_FOLDER / name).is_file():
        message = f"'{name}' is not in the model's folder '{WARMUP_FOLDER}', so the load fails"
        yield WARMUP_FILE.found(message, "Put it there, or use zero_data.", place)
