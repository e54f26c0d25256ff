"""Finds in a parsed ``ModelConfig`` what Triton would accept in silence and serve wrongly.

Works on the message, not on the spec, so that an edited template is held to the same rules, and so
are configurations that others wrote.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from tritonclient.grpc import model_config_pb2

from repo_builder.config.tensors import Finding, tensor_findings
from repo_builder.signature import Signature
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import datatype

__all__ = ["Finding", "check_config", "findings"]

_KIND_CPU, _KIND_MODEL = 2, 3
_CORRID = 3
_CONTROL_TYPES = {
    "int32_false_true": "INT32",
    "fp32_false_true": "FP32",
    "bool_false_true": "BOOL",
}


def check_config(model: str, config: Any, signature: Signature, files: frozenset[str]) -> None:
    """Raises InvalidModelConfig for the first thing found."""
    for cause, hint in findings(model, config, signature, files):
        raise InvalidModelConfig(model, cause, hint)


def findings(
    model: str, config: Any, signature: Signature | None, files: frozenset[str]
) -> Iterator[Finding]:
    """Everything that is wrong with a configuration, most telling first.

    Without a signature nothing is compared with the artifact; ``files`` are those beside
    config.pbtxt, by their path in the model's folder.
    """
    if config.name != model:
        yield f"its configuration is named '{config.name}'", "Triton wants the folder's name."
    yield from tensor_findings(config, signature)
    yield from _file_findings(config, files)
    yield from _instance_findings(config)
    yield from _warmup_findings(config)
    yield from _transaction_findings(config)
    if config.HasField("dynamic_batching"):
        yield from _batching_findings(config)
    if config.HasField("sequence_batching"):
        yield from _sequence_findings(config, signature)


def _file_findings(config: Any, files: frozenset[str]) -> Iterator[Finding]:
    for output in config.output:
        if output.label_filename and output.label_filename not in files:
            cause = f"label file '{output.label_filename}' of output '{output.name}' is not there"
            yield cause, "Triton refuses the model without it: declare serving.labels."
    for path, user in _data_files(config):
        if path not in files:
            hint = "Triton refuses the model without it: name it in serving, which publishes it."
            yield f"data file '{path}' of {user} is not there", hint


def _data_files(config: Any) -> Iterator[tuple[str, str]]:
    """Where Triton looks for data, and what for."""
    for warmup in config.model_warmup:
        for given in warmup.inputs.values():
            if given.input_data_file:
                yield f"warmup/{given.input_data_file}", f"warm-up '{warmup.name}'"
    for state in config.sequence_batching.state:
        for initial in state.initial_state:
            if initial.data_file:
                yield f"initial_state/{initial.data_file}", f"state '{state.input_name}'"


def _instance_findings(config: Any) -> Iterator[Finding]:
    if config.HasField("ensemble_scheduling"):
        if config.instance_group:
            yield "an ensemble has an instance_group", "Its members have instances, it has none."
        return
    if not config.instance_group:
        yield "it has no instance_group", "Triton would choose the number of instances itself."
    for name, count in Counter(group.name for group in config.instance_group).items():
        if name and count > 1:
            yield f"{count} instance_groups are named '{name}'", "Give each a name of its own."
    for group in config.instance_group:
        if group.count < 1:
            yield "an instance_group has no count", "Triton would choose it: write it."
        if group.gpus and group.kind in (_KIND_CPU, _KIND_MODEL):
            cause = "an instance_group names gpus, and its kind is not gpu"
            yield cause, "Leave out gpus, or say kind: gpu."
        if len(set(group.gpus)) < len(group.gpus):
            yield "an instance_group names a GPU twice", "Raise its count instead."
        yield from _resource_findings(group.rate_limiter.resources)
    if all(group.passive for group in config.instance_group) and config.instance_group:
        yield "every instance_group is passive", "Nothing would ever execute: drop one 'passive'."


def _resource_findings(resources: Iterable[Any]) -> Iterator[Finding]:
    for name, count in Counter(resource.name for resource in resources).items():
        if count > 1:
            cause = f"a rate_limiter asks for resource '{name}' {count} times"
            yield cause, "Add the counts up; one name is either global or for each device."


def _warmup_findings(config: Any) -> Iterator[Finding]:
    declared = {tensor.name: tensor for tensor in config.input}
    needed = {tensor.name for tensor in config.input if not tensor.optional}
    for warmup in config.model_warmup:
        if warmup.batch_size > max(config.max_batch_size, 1):
            cause = f"a warm-up of {warmup.batch_size} is above max_batch_size"
            yield f"{cause} {config.max_batch_size}", "Lower warmup.batch_size."
        if not needed <= set(warmup.inputs) <= set(declared):
            yield f"warm-up '{warmup.name}' does not give every input", "Check the templates."
        for name, given in warmup.inputs.items():
            if name not in declared:
                continue
            if not _within(given.dims, declared[name].dims):
                cause = f"warm-up '{warmup.name}' gives '{name}' as {list(given.dims)}"
                yield f"{cause}, declared is {list(declared[name].dims)}", "Check its dimensions."
            if given.data_type != declared[name].data_type:
                cause = f"warm-up '{warmup.name}' gives '{name}' as {datatype(given.data_type)}"
                yield f"{cause}, declared is {datatype(declared[name].data_type)}", "Give the same."


def _within(given: Any, declared: Any) -> bool:
    if len(given) != len(declared):
        return False
    return all(want in (-1, got) for got, want in zip(given, declared, strict=True))


def _transaction_findings(config: Any) -> Iterator[Finding]:
    if config.model_transaction_policy.decoupled and config.response_cache.enable:
        hint = "Triton refuses the two together: a cache keeps one answer for each request."
        yield "a decoupled model has a response_cache", hint


def _batching_findings(config: Any) -> Iterator[Finding]:
    batching, largest = config.dynamic_batching, config.max_batch_size
    if largest == 0:
        hint = "Set serving.dynamic_batching: null, or give the model a batch dimension."
        yield "dynamic_batching has no effect with max_batch_size 0", hint
    yield from _preferred_findings(batching.preferred_batch_size, largest)
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


def _preferred_findings(sizes: Iterable[int], largest: int) -> Iterator[Finding]:
    for size in sizes:
        if size > largest > 0:
            yield f"preferred_batch_size {size} is above max_batch_size {largest}", "Lower it."


def _sequence_findings(config: Any, signature: Signature | None) -> Iterator[Finding]:
    batching = config.sequence_batching
    yield from _preferred_findings(batching.oldest.preferred_batch_size, config.max_batch_size)
    if batching.HasField("oldest") and batching.oldest.max_candidate_sequences < 1:
        yield "sequence_batching.oldest has no max_candidate_sequences", "Give a number above 0."
    controls = [each for given in batching.control_input for each in given.control]
    for kind, count in Counter(control.kind for control in controls).items():
        if count > 1:
            name = model_config_pb2.ModelSequenceBatching.Control.Kind.Name(kind)
            yield f"{count} control inputs are for {name}", "Triton has one of each kind."
    for given in batching.control_input:
        for control in given.control:
            yield from _control_findings(given.name, control)
    if signature is not None:
        yield from _state_findings(batching, signature)


def _control_findings(name: str, control: Any) -> Iterator[Finding]:
    given = [field for field in _CONTROL_TYPES if getattr(control, field)]
    if control.kind == _CORRID:
        if given or not control.data_type:
            cause = f"control input '{name}' for the correlation id has no data_type of its own"
            yield cause, "Give data_type, and no false_true."
    elif len(given) != 1 or len(getattr(control, given[0])) != 2:
        cause = f"control input '{name}' needs exactly one pair of values for no and yes"
        yield cause, "Give int32_false_true, fp32_false_true or bool_false_true."


def _state_findings(batching: Any, signature: Signature) -> Iterator[Finding]:
    """States against the artifact: an input and an output of one type."""
    inputs = {tensor.name: tensor for tensor in signature.inputs}
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    hint = "A state is an output that comes back as an input: both must exist, and be alike."
    for state in batching.state:
        for name, known in ((state.input_name, inputs), (state.output_name, outputs)):
            if name not in known:
                yield f"state '{name}' is no tensor of the artifact", hint
            elif known[name].dtype != datatype(state.data_type):
                cause = f"state '{name}' is declared {datatype(state.data_type)}"
                yield f"{cause} and is {known[name].dtype}", hint
    for given in batching.control_input:
        if given.name not in inputs:
            yield f"control input '{given.name}' is no input of the artifact", hint
            continue
        for control in given.control:
            told, actual = _control_type(control), inputs[given.name].dtype
            if told != actual:
                cause = f"control input '{given.name}' is given as {told} and is {actual}"
                yield cause, "Leave out its values: they follow from the artifact."


def _control_type(control: Any) -> str:
    given = (dtype for field, dtype in _CONTROL_TYPES.items() if getattr(control, field))
    return next(given, datatype(control.data_type))
