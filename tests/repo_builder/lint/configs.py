"""Any configuration at all, as a random hand might write it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["x", "y", "m", "other", "between", ""])
NUMBERS = st.integers(-2, 9)


@st.composite
def messages(draw: st.DrawFn, descriptor: Any, depth: int = 0) -> dict[str, Any]:
    """Any fields of a message, in JSON: what a random hand might write."""
    fields = {}
    seen: set[str] = set()
    for field in descriptor.fields:
        oneof = field.containing_oneof.name if field.containing_oneof else ""
        if draw(st.integers(0, 3)) or depth > 5 or oneof in seen - {""}:
            continue
        seen.add(oneof)
        fields[field.name] = draw(values(field, depth))
    return fields


def values(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        keys = NAMES if entry["key"].cpp_type == 9 else st.integers(0, 5).map(str)
        return st.dictionaries(keys, single(entry["value"], depth), max_size=2)
    if field.is_repeated if hasattr(field, "is_repeated") else field.label == 3:
        return st.lists(single(field, depth), max_size=2)
    return single(field, depth)


def single(field: Any, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type, depth + 1)
    if field.enum_type:
        return st.sampled_from([value.name for value in field.enum_type.values])
    unsigned = field.cpp_type in (3, 4)
    plain = {8: NAMES, 9: NAMES, 7: st.booleans()}
    return plain.get(field.cpp_type, st.integers(0, 9) if unsigned else NUMBERS)
