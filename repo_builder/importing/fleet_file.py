"""Writes the fleet file: entries with comments, proved to load before it is there."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from repo_builder.importing.models import CannotImport, Imported, import_model
from repo_builder.lint.repository import read_repository
from tritonfleet.errors import InvalidSpec
from tritonfleet.spec import load_fleet

_SCHEMA_URL = "fleet.schema.json"
_INDENT = 2
_WIDTH = 100


@dataclass(slots=True)
class Import:
    """What became of the models of a repository."""

    models: dict[str, Imported] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    """Why, by name."""

    def leave_out(self, model: str, reason: str) -> None:
        """Drops a model, and the ensembles above it."""
        self.models.pop(model, None)
        self.left_out.setdefault(model, reason)
        for name in [n for n, i in self.models.items() if model in _members(i)]:
            self.leave_out(name, f"its member '{model}' is left out")


def _members(imported: Imported) -> set[str]:
    return {step["model"] for step in imported.entry["source"].get("steps", ())}


def import_models(repository: Path, base: Path) -> Import:
    """Every model of a repository that the builder could make again."""
    found, result = read_repository(repository), Import()
    configs = found.configs
    for finding in found.findings:
        if finding.model not in found.models:
            result.left_out[finding.model or str(repository)] = finding.message
    reasons = {}
    for name, subjects in found.models.items():
        try:
            result.models[name] = import_model(subjects, base, configs)
        except CannotImport as reason:
            reasons[name] = str(reason)
    for name, text in reasons.items():
        result.leave_out(name, text)
    for name in sorted(result.models):
        for member in sorted(_members(result.models.get(name, Imported({"source": {}})))):
            if member not in result.models:
                result.leave_out(name, f"its member '{member}' is not in the repository")
    return result


def render(result: Import, repository: Path, name: str, capacity: str) -> str:
    """The text of a fleet file that loads; models that keep it from loading are left out.

    The text is empty where none is left.
    """
    while result.models:
        text = _text(result, repository, name, capacity)
        try:
            _prove(text)
        except InvalidSpec as error:
            guilty = {
                problem.path.split(".")[1]: problem.message
                for problem in error.problems
                if problem.path.startswith("models.")
            }
            if not guilty:
                raise
            for model, message in guilty.items():
                result.leave_out(model, message)
        else:
            return text
    return ""


def _prove(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder, "fleet.yaml")
        draft.write_text(text, encoding="utf-8")
        load_fleet(draft)


def _text(result: Import, repository: Path, name: str, capacity: str) -> str:
    document = CommentedMap()
    document["name"] = name
    document["servers"] = _node([{"name": "local", "capacity": capacity}])
    document.yaml_set_comment_before_after_key(
        "servers", before="\nWhat the models share: write what your GPU, or the host, has for them."
    )
    document["models"] = models = CommentedMap()
    document.yaml_set_comment_before_after_key("models", before="\n")
    for model, imported in result.models.items():
        models[model] = _node(imported.entry)
        if imported.notes:
            before = "\n".join(f"{model} {note}." for note in imported.notes)
            models.yaml_set_comment_before_after_key(model, before=before, indent=_INDENT)
    stream = io.StringIO()
    yaml = YAML()
    yaml.width = _WIDTH
    yaml.indent(mapping=_INDENT, sequence=2 * _INDENT, offset=_INDENT)
    yaml.dump(document, stream)
    return _head(repository) + stream.getvalue() + _tail(result)


def _head(repository: Path) -> str:
    return (
        f"# yaml-language-server: $schema={_SCHEMA_URL}\n"
        f"# Made by 'tritonfleet import' of {repository}. Its files stay where they are, and\n"
        "# 'tritonfleet build' checks and publishes them in a repository of its own.\n"
    )


def _tail(result: Import) -> str:
    if not result.left_out:
        return ""
    lines = (f"#   {name}: {' '.join(reason.split())}" for name, reason in result.left_out.items())
    return "\n# Left out:\n" + "\n".join(sorted(lines)) + "\n"


def _node(value: Any) -> Any:
    """Plain data as ruamel writes it best: lists of plain values on one line."""
    if isinstance(value, Mapping):
        return CommentedMap((key, _node(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        sequence = CommentedSeq(_node(item) for item in value)
        if not any(isinstance(item, Mapping | list | tuple) for item in value):
            sequence.fa.set_flow_style()
        return sequence
    return value
