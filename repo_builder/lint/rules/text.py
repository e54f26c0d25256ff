"""What only the text of a configuration shows: templates never filled in, keys written twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, MutableSequence
from functools import cache
from typing import Any

from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Subject

TEMPLATE = Rule("unfilled-template", "error", "a placeholder that nobody filled in")
DUPLICATE_KEY = Rule("duplicate-key", "error", "a key given twice in a map")

_QUOTED_OR_COMMENT = re.compile(
    r'"(?:\\.|[^"\\\n])*"' r"|'(?:\\.|[^'\\\n])*'" r"|(?P<comment>#[^\n]*)"
)
_PLACEHOLDER = re.compile(
    r"\$\{[^{}\n]*\}|\{\{[^{}\n]*\}\}|\{%[^\n]*?%\}|<[A-Z][A-Z0-9_-]+>"
    r"|\b(?:TODO|FIXME|CHANGEME|CHANGE_ME|REPLACE_ME)\b"
)


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about the text."""
    yield from _templates(subject.text)
    if subject.parsed:
        yield from _duplicates(subject.text)


def has_placeholders(text: str) -> bool:
    """Whether something was not filled in, so that nothing else it says can be trusted."""
    return bool(_PLACEHOLDER.search(without_comments(text)))


def without_comments(text: str) -> str:
    """The text with blanks for comments, every line and column where it was."""
    return _QUOTED_OR_COMMENT.sub(
        lambda match: " " * len(match[0]) if match["comment"] else match[0], text
    )


def _templates(text: str) -> Iterator[Finding]:
    seen = set()
    for number, line in enumerate(without_comments(text).splitlines(), start=1):
        for match in _PLACEHOLDER.finditer(line):
            if match[0] not in seen:
                seen.add(match[0])
                message = f"'{match[0]}' was not filled in"
                yield TEMPLATE.found(message, "Write the value.", f"line {number}")


def _duplicates(text: str) -> Iterator[Finding]:
    from google.protobuf import text_format

    message = _config_without_maps()()
    text_format.Parse(text, message)
    for place, key in _repeated_keys(message, ""):
        said = f"'{key}' is given twice; the last silently wins"
        yield DUPLICATE_KEY.found(said, "Keep one of them.", place)


@cache
def _config_without_maps() -> Any:
    """ModelConfig with its maps as plain lists of entries, in which a repeated key shows."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from tritonclient.grpc import model_config_pb2

    file = descriptor_pb2.FileDescriptorProto()
    model_config_pb2.DESCRIPTOR.CopyToProto(file)
    pending = list(file.message_type)
    while pending:
        message = pending.pop()
        message.options.ClearField("map_entry")
        pending += message.nested_type
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("inference.ModelConfig"))


def _repeated_keys(message: Any, place: str) -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if not field.message_type:
            continue
        where = f"{place}.{field.name}".lstrip(".")
        items = value if isinstance(value, MutableSequence) else [value]
        if field.message_type.name.endswith("Entry"):
            counts = Counter(str(item.key) for item in items)
            yield from ((where, key) for key, count in counts.items() if count > 1)
        for item in items:
            yield from _repeated_keys(item, where)
