"""From the fleet file's serving options and the artifact's signature to a ``ModelConfig``.

The message is what config.pbtxt must say; templates only write it down. What the options contradict
is found here or, on the finished message, by ``config_check``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import json_format

from repo_builder.config.files import label_file
from repo_builder.config.subject import (
    Subject,
    check_known,
    declared_inputs,
    declared_outputs,
    dims,
    inner_dims,
)
from repo_builder.config.tensorrt import tensorrt_parameters
from repo_builder.signature import Tensor
from tritonfleet.errors import did_you_mean
from tritonfleet.server.pbtxt import ModelConfig, changed_fields
from tritonfleet.server.tensors import DYNAMIC_SIZE
from tritonfleet.spec.base import Spec
from tritonfleet.spec.scheduling import Control, InitialState, SequenceState
from tritonfleet.spec.serving import InputOptions, ServingSpec, TensorOptions, VersionPolicy, Warmup

WARMUP_FOLDER = "warmup"
INITIAL_STATE_FOLDER = "initial_state"
_EVERYWHERE = (
    "response_cache", "model_transaction_policy", "metric_tags", "model_repository_agents",
    "model_metrics",
)  # fmt: skip
_VERBATIM_BUT_FOR_ENSEMBLES = (
    "batch_input", "batch_output", "instance_group", "dynamic_batching", "default_model_filename",
    "cc_model_filenames", "model_operations", "runtime",
)  # fmt: skip
_FALSE_TRUE: Mapping[str, dict[str, Any]] = {
    "INT32": {"int32_false_true": [0, 1]},
    "FP32": {"fp32_false_true": [0.0, 1.0]},
    "BOOL": {"bool_false_true": [False, True]},
}


def build_message(subject: Subject) -> Any:
    """The ``ModelConfig`` that the options and the artifact give, ``extra`` included.

    Raises InvalidModelConfig where they contradict each other.
    """
    _check_names(subject)
    message = ModelConfig()
    _parse(subject, "serving", proto_words(ModelConfig.DESCRIPTOR, _fields(subject)), message)
    return _with_extra(subject, message)


def proto_words(descriptor: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """Our words for enumerations as protobuf's: 'gpu' is KIND_GPU, 'BYTES' is TYPE_STRING."""
    return {key: _word(descriptor.fields_by_name[key], value) for key, value in data.items()}


def _word(field: Any, value: Any) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {key: _word(entry, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_word(field, item) for item in value]
    if field.message_type:
        return proto_words(field.message_type, value)
    return _enum_name(field.enum_type, value) if field.enum_type else value


def _enum_name(enum: Any, word: str) -> str:
    word = "STRING" if word == "BYTES" else word.upper()
    names = [str(value.name) for value in enum.values]
    # The shortest: 'element_count' is BATCH_ELEMENT_COUNT, not BATCH_ACCUMULATED_ELEMENT_COUNT.
    return min((name for name in names if f"_{name}".endswith(f"_{word}")), key=len)


def _parse(subject: Subject, where: str, data: dict[str, Any], message: Any) -> None:
    try:
        json_format.ParseDict(data, message)
    except json_format.ParseError as error:
        cause = f"{where}: {str(error).splitlines()[0].rstrip('.')}"
        hint = "Fields are named as in Triton's model configuration document."
        raise subject.refuse(cause, hint) from error


def _with_extra(subject: Subject, message: Any) -> Any:
    """The message with the untyped passage merged in, unless that would change what is there."""
    extra, merged = ModelConfig(), ModelConfig()
    _parse(subject, "serving.extra", subject.serving.extra, extra)
    merged.CopyFrom(message)
    merged.MergeFrom(extra)
    for path in changed_fields(message, merged):
        cause = f"serving.extra contradicts the generated '{path}'"
        hint = "extra only adds: say it in serving itself, or leave it out."
        raise subject.refuse(cause, hint)
    return merged


def _fields(subject: Subject) -> dict[str, Any]:
    """All of the configuration as a mapping, with our own words for enumerations."""
    product, serving = subject.product, subject.serving
    fields = {
        "name": subject.model,
        "max_batch_size": subject.max_batch_size,
        "input": [_input(subject, tensor) for tensor in declared_inputs(subject)],
        "output": [_output(subject, tensor) for tensor in declared_outputs(subject)],
        "version_policy": _version_policy(serving.version_policy),
        "parameters": {key: {"string_value": text} for key, text in serving.parameters.items()},
        **_verbatim(serving, _EVERYWHERE),
    }
    if product.steps:
        steps = [_step(step) for step in product.steps]
        return {**fields, "platform": "ensemble", "ensemble_scheduling": {"step": steps}}
    fields |= {"backend": product.backend, **_verbatim(serving, _VERBATIM_BUT_FOR_ENSEMBLES)}
    fields["model_warmup"] = [_warmup(subject, i, each) for i, each in enumerate(serving.warmup)]
    if serving.sequence_batching is not None:
        fields["sequence_batching"] = _sequence_batching(subject)
    if serving.optimization is not None:
        fields["optimization"] = _optimization(subject)
    return fields


def _verbatim(serving: ServingSpec, names: Iterable[str]) -> dict[str, Any]:
    """Options that have Triton's own structure; what is not given is left out."""
    given = {name: getattr(serving, name) for name in names}
    return {name: _dumped(value) for name, value in given.items() if value is not None}


def _dumped(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.model_dump(by_alias=True, exclude_none=True)
    return [_dumped(item) for item in value] if isinstance(value, tuple) else value


def _step(step: Any) -> dict[str, Any]:
    return {
        "model_name": step.model,
        "model_version": -1,
        "input_map": dict(step.input_map),
        "output_map": dict(step.output_map),
    }


def _version_policy(policy: VersionPolicy) -> dict[str, Any]:
    if policy.all:
        return {"all": {}}
    if policy.specific:
        return {"specific": {"versions": policy.specific}}
    return {"latest": {"num_versions": policy.latest}}


def _input(subject: Subject, tensor: Tensor) -> dict[str, Any]:
    options = subject.serving.input.get(tensor.name, InputOptions())
    return {
        **_tensor(subject, tensor, options),
        "optional": options.optional or tensor.name in subject.product.optional_inputs,
        "allow_ragged_batch": options.allow_ragged_batch,
        "format": options.format,
    }


def _output(subject: Subject, tensor: Tensor) -> dict[str, Any]:
    options = subject.serving.output.get(tensor.name, TensorOptions())
    labels = {"label_filename": label_file(tensor.name)} if tensor.name in subject.labels else {}
    return {**_tensor(subject, tensor, options), **labels}


def _tensor(subject: Subject, tensor: Tensor, options: TensorOptions) -> dict[str, Any]:
    inner = inner_dims(subject, tensor)
    fields: dict[str, Any] = {
        "name": tensor.name,
        "data_type": tensor.dtype,
        "dims": options.dims or inner,
        "is_shape_tensor": options.is_shape_tensor,
        "is_non_linear_format_io": options.is_non_linear_format_io,
    }
    if options.reshape is not None:
        fields["reshape"] = {"shape": options.reshape}
    elif not inner:
        # Triton has no tensor without dimensions: a scalar is one element there.
        fields |= {"dims": options.dims or (1,), "reshape": {"shape": ()}}
    return fields


def _warmup(subject: Subject, index: int, warmup: Warmup) -> dict[str, Any]:
    """One warm-up request. Only floats can be random: ids beyond a vocabulary fail the load."""
    inputs = declared_inputs(subject)
    for name in warmup.files:
        check_known(subject, f"warmup.{index}.files", name, [tensor.name for tensor in inputs])
    return {
        "name": warmup.name or f"warmup_{index}",
        "batch_size": warmup.batch_size if subject.batched else 0,
        "count": warmup.count,
        "inputs": {tensor.name: _warmup_input(subject, tensor, warmup) for tensor in inputs},
    }


def _warmup_input(subject: Subject, tensor: Tensor, warmup: Warmup) -> dict[str, Any]:
    sizes, where = _warmup_dims(subject, tensor, warmup.dimensions), warmup.files.get(tensor.name)
    if where is None:
        random = warmup.data == "random" and tensor.dtype.startswith("FP")
        data: dict[str, Any] = {"random_data" if random else "zero_data": True}
    else:
        sizes = subject.data_files[where].shape or sizes
        data = {"input_data_file": subject.data_file(where, tensor.dtype, sizes).published_name}
    return {"data_type": tensor.dtype, "dims": sizes, **data}


def _warmup_dims(subject: Subject, tensor: Tensor, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """What clients would send: the declared dims, with a size for each dynamic one."""
    declared: tuple[int, ...] = _input(subject, tensor)["dims"]
    names = tensor.shape[len(tensor.shape) - len(declared) :]
    if len(names) != len(declared):
        names = ("",) * len(declared)
    return tuple(
        size if size > 0 else sizes.get(str(name), DYNAMIC_SIZE)
        for size, name in zip(declared, names, strict=True)
    )


def _sequence_batching(subject: Subject) -> dict[str, Any]:
    batching = subject.serving.sequence_batching
    assert batching is not None, "asked for only where it is given"
    inputs = {tensor.name: tensor for tensor in subject.product.signature.inputs}
    for name in (
        *(c.name for c in batching.control_input),
        *(s.input_name for s in batching.state),
    ):
        check_known(subject, "sequence_batching", name, inputs)
    fields: dict[str, Any] = _dumped(batching)
    fields["control_input"] = [
        {
            "name": each.name,
            "control": [_control(subject, c, inputs[each.name]) for c in each.control],
        }
        for each in batching.control_input
    ]
    fields["state"] = [_state(subject, state, inputs) for state in batching.state]
    return fields


def _control(subject: Subject, control: Control, tensor: Tensor) -> dict[str, Any]:
    """A signal, with the values that the input's type has for no and yes where none are given."""
    fields: dict[str, Any] = _dumped(control)
    if len(fields) > 1:
        return fields
    if control.kind == "corrid":
        return {**fields, "data_type": tensor.dtype}
    if tensor.dtype not in _FALSE_TRUE:
        cause = f"signal '{tensor.name}' is {tensor.dtype}, and Triton signals in no such type"
        raise subject.refuse(cause, f"Cast it inside the model from {', '.join(_FALSE_TRUE)}.")
    return {**fields, **_FALSE_TRUE[tensor.dtype]}


def _state(subject: Subject, state: SequenceState, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    outputs = [tensor.name for tensor in subject.product.signature.outputs]
    check_known(subject, "sequence_batching.state", state.output_name, outputs)
    tensor = inputs[state.input_name]
    dtype = state.data_type or tensor.dtype
    fields: dict[str, Any] = _dumped(state)
    return {
        **fields,
        "data_type": dtype,
        "dims": state.dims or dims(tensor.shape, subject.batched),
        "initial_state": [_initial_state(subject, each, dtype) for each in state.initial_state],
    }


def _initial_state(subject: Subject, initial: InitialState, dtype: str) -> dict[str, Any]:
    dtype = initial.data_type or dtype
    fields = {"name": initial.name, "data_type": dtype, "dims": initial.dims}
    if initial.data_file is None:
        return {**fields, "zero_data": True}
    file = subject.data_file(initial.data_file, dtype, initial.dims)
    return {**fields, "data_file": file.published_name}


def _optimization(subject: Subject) -> dict[str, Any]:
    given = subject.serving.optimization
    assert given is not None, "asked for only where it is given"
    fields: dict[str, Any] = _dumped(given.model_copy(update={"tensorrt": None}))
    if given.tensorrt is None:
        return fields
    if subject.product.backend != "onnxruntime":
        cause = (
            f"optimization.tensorrt is for ONNX models, its backend is {subject.product.backend}"
        )
        raise subject.refuse(cause, "Leave it out, or export the model to ONNX.")
    accelerators = dict(fields.get("execution_accelerators", {}))
    others = accelerators.get("gpu_execution_accelerator", ())
    own = {"name": "tensorrt", "parameters": tensorrt_parameters(subject, given.tensorrt)}
    fields["execution_accelerators"] = {**accelerators, "gpu_execution_accelerator": [own, *others]}
    return fields


def _check_names(subject: Subject) -> None:
    signature, serving = subject.product.signature, subject.serving
    for name in serving.input:
        check_known(subject, "serving.input", name, [t.name for t in declared_inputs(subject)])
    for name in serving.output:
        check_known(subject, "serving.output", name, [t.name for t in signature.outputs])
    for given in serving.batch_input:
        for name in (*given.target_name, *given.source_input):
            check_known(subject, "batch_input", name, [t.name for t in signature.inputs])
    for output in serving.batch_output:
        for name in output.target_name:
            check_known(subject, "batch_output", name, [t.name for t in signature.outputs])
    _check_labels(subject)


def _check_labels(subject: Subject) -> None:
    outputs = {tensor.name: tensor for tensor in subject.product.signature.outputs}
    for output, names in subject.labels.items():
        if output not in outputs:
            guess = did_you_mean(output, outputs)
            hint = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(outputs)}."
            raise subject.refuse(f"labels name an output '{output}'", hint)
        width = outputs[output].shape[-1] if outputs[output].shape else 1
        if isinstance(width, int) and width != len(names):
            cause = f"output '{output}' gives {width} scores and has {len(names)} labels"
            raise subject.refuse(cause, "Give one label for each score, in order.")


def data_texts(subject: Subject) -> dict[str, bytes]:
    """The data files as they are published, by path beside config.pbtxt."""
    serving, files = subject.serving, subject.data_files
    found = {}
    for warmup in serving.warmup:
        for where in warmup.files.values():
            found[f"{WARMUP_FOLDER}/{files[where].published_name}"] = files[where].content
    for state in serving.sequence_batching.state if serving.sequence_batching else ():
        for file in (files[each.data_file] for each in state.initial_state if each.data_file):
            found[f"{INITIAL_STATE_FOLDER}/{file.published_name}"] = file.content
    return found
