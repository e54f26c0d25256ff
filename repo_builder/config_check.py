"""Finds in a parsed ``ModelConfig`` what Triton would accept in silence and serve wrongly.

Works on the message, not on the spec, so that an edited template is held to the same rules.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeAlias

from repo_builder.signature import Signature, Tensor
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import datatype

Finding: TypeAlias = "tuple[str, str]"
"""A cause and a hint."""
_KIND_AUTO = 0


def check_config(
    model: str, config: Any, signature: Signature, label_files: frozenset[str]
) -> None:
    """Raises InvalidModelConfig for the first thing found."""
    for cause, hint in findings(model, config, signature, label_files):
        raise InvalidModelConfig(model, cause, hint)


def findings(
    model: str, config: Any, signature: Signature, label_files: frozenset[str]
) -> Iterator[Finding]:
    """Everything that is wrong with a configuration, most telling first."""
    if config.name != model:
        yield f"its configuration is named '{config.name}'", "Triton wants the folder's name."
    yield from _tensor_findings("input", config, config.input, signature.inputs)
    yield from _tensor_findings("output", config, config.output, signature.outputs)
    yield from _label_findings(config, label_files)
    yield from _instance_findings(config)
    yield from _warmup_findings(config)
    if config.HasField("dynamic_batching"):
        yield from _batching_findings(config)


def _tensor_findings(
    side: str, config: Any, declared: Iterable[Any], actual: tuple[Tensor, ...]
) -> Iterator[Finding]:
    """Declared against actual: Triton would serve a wrong type or shape without a word."""
    declared = list(declared)
    hint = "The declaration must be the artifact's own: check the templates."
    for name, count in Counter(tensor.name for tensor in declared).items():
        if count > 1:
            yield f"{side} '{name}' is declared {count} times", hint
    by_name = {tensor.name: tensor for tensor in declared}
    for tensor in actual:
        if tensor.name not in by_name:
            yield f"{side} '{tensor.name}' of the artifact is not declared", hint
            continue
        found = by_name.pop(tensor.name)
        if datatype(found.data_type) != tensor.dtype:
            cause = f"{side} '{tensor.name}' is declared {datatype(found.data_type)}"
            yield f"{cause} and is {tensor.dtype}", hint
        expected = _actual_dims(tensor, config.max_batch_size > 0)
        if tuple(_inner_dims(found)) != expected:
            cause = f"{side} '{tensor.name}' is declared {list(_inner_dims(found))}"
            yield f"{cause} and is {list(expected)}", hint
        if any(size == 0 or size < -1 for size in found.dims) or not found.dims:
            yield f"{side} '{tensor.name}' has impossible dims {list(found.dims)}", hint
    for name in by_name:
        yield f"{side} '{name}' is declared and the artifact has none of that name", hint


def _actual_dims(tensor: Tensor, batched: bool) -> tuple[int, ...]:
    sizes = tensor.shape[1:] if batched else tensor.shape
    return tuple(size if isinstance(size, int) else -1 for size in sizes)


def _inner_dims(tensor: Any) -> Iterable[int]:
    """The dims that the backend sees."""
    return tuple(tensor.reshape.shape) if tensor.HasField("reshape") else tuple(tensor.dims)


def _label_findings(config: Any, label_files: frozenset[str]) -> Iterator[Finding]:
    for output in config.output:
        if output.label_filename and output.label_filename not in label_files:
            cause = f"label file '{output.label_filename}' of output '{output.name}' is not there"
            yield cause, "Triton refuses the model without it: declare serving.labels."


def _instance_findings(config: Any) -> Iterator[Finding]:
    if config.HasField("ensemble_scheduling"):
        if config.instance_group:
            yield "an ensemble has an instance_group", "Its members have instances, it has none."
        return
    if not config.instance_group:
        yield "it has no instance_group", "Triton would choose the number of instances itself."
    for group in config.instance_group:
        if group.count < 1:
            yield "an instance_group has no count", "Triton would choose it: write it."
        if group.kind != _KIND_AUTO or group.gpus:
            hint = "Leave both out: which device a server uses is the server's business."
            yield "an instance_group binds the model to a kind of device or to GPUs", hint


def _warmup_findings(config: Any) -> Iterator[Finding]:
    declared = {tensor.name: tensor for tensor in config.input}
    for warmup in config.model_warmup:
        if warmup.batch_size > max(config.max_batch_size, 1):
            cause = f"a warm-up of {warmup.batch_size} is above max_batch_size"
            yield f"{cause} {config.max_batch_size}", "Lower warmup.batch_size."
        if set(warmup.inputs) != set(declared):
            yield f"warm-up '{warmup.name}' does not give every input", "Check the templates."
        for name, given in warmup.inputs.items():
            if name in declared and not _within(given.dims, declared[name].dims):
                cause = f"warm-up '{warmup.name}' gives '{name}' as {list(given.dims)}"
                yield f"{cause}, declared is {list(declared[name].dims)}", "Check the templates."


def _within(given: Any, declared: Any) -> bool:
    if len(given) != len(declared):
        return False
    return all(want in (-1, got) for got, want in zip(given, declared, strict=True))


def _batching_findings(config: Any) -> Iterator[Finding]:
    batching, largest = config.dynamic_batching, config.max_batch_size
    if largest == 0:
        hint = "Set serving.dynamic_batching: null, or give the model a batch dimension."
        yield "dynamic_batching has no effect with max_batch_size 0", hint
    for size in batching.preferred_batch_size:
        if size > largest > 0:
            yield f"preferred_batch_size {size} is above max_batch_size {largest}", "Lower it."
    levels, default = batching.priority_levels, batching.default_priority_level
    if levels and not 1 <= default <= levels:
        cause = f"default_priority_level {default} is not among the {levels} priority_levels"
        yield cause, "Give one of them."
    if default and not levels:
        yield "default_priority_level is given without priority_levels", "Give both or neither."
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            cause = f"priority_queue_policy names level {level} of {levels}"
            yield cause, "Raise priority_levels, or drop the policy."
