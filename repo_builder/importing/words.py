"""Protobuf's words for enumerations as the fleet file has them: KIND_GPU is 'gpu'.

The way back is ``repo_builder.config.message.proto_words``.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence
from typing import Any

from tritonfleet.server.pbtxt import datatype

_PREFIXES = ("CONTROL_SEQUENCE_", "KIND_", "FORMAT_", "PRIORITY_", "BATCH_")
_UPPER_CASE = "TimeoutAction"
_SAID_IN_FULL: Mapping[str, tuple[str, ...]] = {
    "Graph": ("level",),
    "PinnedMemoryBuffer": ("enable",),
    "ModelResponseCache": ("enable",),
    "ModelTransactionPolicy": ("decoupled",),
    "Control": ("kind",),
    "BatchInput": ("kind",),
    "BatchOutput": ("kind",),
}
"""What the fleet file wants said even where it is protobuf's default, by message."""


def our_words(message: Any) -> dict[str, Any]:
    """What is set in a message, as a plain mapping in the fleet file's words."""
    fields = {field.name: _value(field, value) for field, value in message.ListFields()}
    for name in _SAID_IN_FULL.get(message.DESCRIPTOR.name, ()):
        field = message.DESCRIPTOR.fields_by_name[name]
        fields.setdefault(name, _value(field, getattr(message, name)))
    return fields


def _value(field: Any, value: Any) -> Any:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name["value"]
        return {key: _single(entry, value[key]) for key in sorted(value)}
    if isinstance(value, MutableSequence):
        return [_single(field, item) for item in value]
    return _single(field, value)


def _single(field: Any, value: Any) -> Any:
    if field.message_type:
        return our_words(value)
    return _word(field.enum_type, value) if field.enum_type else value


def _word(enum: Any, number: int) -> str:
    if enum.name == "DataType":
        return datatype(number)
    name = str(enum.values_by_number[number].name)
    if enum.name == _UPPER_CASE:
        return name
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), "")
    return name.removeprefix(prefix).lower()
