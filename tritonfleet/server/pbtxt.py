"""``config.pbtxt`` as text and as Triton's own ``ModelConfig`` message.

Triton answers a broken file with "failed to poll from model repository" and nothing more; the
parser here names line and column.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from google.protobuf.descriptor import FieldDescriptor
from tritonclient.grpc import model_config_pb2

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import CONFIG_NAME

ModelConfig = model_config_pb2.ModelConfig
_TYPE_PREFIX = "TYPE_"
_INTEGERS_64 = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def parse_config(model: str, text: str) -> Any:
    """The ``ModelConfig`` of a text; InvalidModelConfig with line and column when it is none."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        hint = "See Triton's model configuration document for the field's name and place."
        raise InvalidModelConfig(model, f"{CONFIG_NAME} does not parse: {error}", hint) from error


def read_config(repository: Path, model: str) -> Any:
    """The published ``ModelConfig`` of a model; InvalidModelConfig when it is absent or broken."""
    path = repository / model / CONFIG_NAME
    try:
        return parse_config(model, path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"Run 'tritonfleet build {model}'."
        raise InvalidModelConfig(model, f"{path} cannot be read: {error.strerror}", hint) from error


def served_versions(config: Any, versions: tuple[int, ...]) -> tuple[int, ...]:
    """Those of a model's versions, ascending, that its version policy makes Triton load."""
    policy = config.version_policy
    if policy.HasField("all"):
        return versions
    if policy.HasField("specific"):
        return tuple(version for version in versions if version in policy.specific.versions)
    count = policy.latest.num_versions if policy.HasField("latest") else 1
    return versions[-count:] if count else ()


def format_config(config: Any) -> str:
    """A ``ModelConfig`` as canonical text."""
    return str(text_format.MessageToString(config, use_short_repeated_primitives=True))


def format_passage(config: Any, name: str) -> str:
    """One field of a ``ModelConfig`` as canonical text; empty where it is not set."""
    passage = ModelConfig()
    passage.MergeFrom(config)
    for field in ModelConfig.DESCRIPTOR.fields:
        if field.name != name:
            passage.ClearField(field.name)
    return format_config(passage).rstrip("\n")


def changed_fields(before: Any, after: Any) -> tuple[str, ...]:
    """The paths of what a message says and another does not, or says otherwise.

    What only the other one says is no change. A list is one value.
    """
    told = dict(_leaves(after, ""))
    return tuple(path for path, value in _leaves(before, "") if told.get(path) != value)


def _leaves(message: Any, path: str) -> Iterator[tuple[str, Any]]:
    for field, value in message.ListFields():
        at = f"{path}.{field.name}" if path else str(field.name)
        if field.message_type and field.message_type.GetOptions().map_entry:
            for key in value:
                yield from _leaf(
                    field.message_type.fields_by_name["value"], f"{at}.{key}", value[key]
                )
        elif _is_list(value):
            yield at, list(value)
        else:
            yield from _leaf(field, at, value)


def _leaf(field: Any, at: str, value: Any) -> Iterator[tuple[str, Any]]:
    """A value; of a message that it is there, then what is in it."""
    yield at, value if field.message_type is None else True
    if field.message_type is not None:
        yield from _leaves(value, at)


def _is_list(value: Any) -> bool:
    return hasattr(value, "extend") and not isinstance(value, str | bytes)


def config_json(config: Any) -> dict[str, Any]:
    """A ``ModelConfig`` as the JSON that Triton's HTTP API gives."""
    data = json_format.MessageToDict(
        config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(config.DESCRIPTOR, data)


def _with_numbers(descriptor: Any, data: dict[str, Any]) -> dict[str, Any]:
    """64-bit integers as numbers, as Triton writes them; protobuf's JSON has them as text."""
    return {name: _number(descriptor.fields_by_name[name], value) for name, value in data.items()}


def _number(field: Any, value: Any) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {key: _number(entry, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_number(field, item) for item in value]
    if field.message_type:
        return _with_numbers(field.message_type, value)
    return int(value) if field.cpp_type in _INTEGERS_64 else value


def datatype(config_type: int) -> str:
    """The protocol's name of a config's data type: TYPE_STRING is BYTES, TYPE_FP32 is FP32."""
    name = str(model_config_pb2.DataType.Name(config_type)).removeprefix(_TYPE_PREFIX)
    return "BYTES" if name == "STRING" else name


def config_type(datatype: str) -> str:
    """The config's name of a protocol data type: BYTES is TYPE_STRING, FP32 is TYPE_FP32."""
    return _TYPE_PREFIX + ("STRING" if datatype == "BYTES" else datatype)


def protocol_shape(config: Any, tensor: Any) -> list[int]:
    """A tensor's shape as the protocol shows it: dims, with -1 in front where there is a batch."""
    dims = list(tensor.dims)
    return [-1, *dims] if config.max_batch_size > 0 else dims
