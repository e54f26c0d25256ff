"""Reads a repository as Triton would find it, and notes what cannot be read.

Nothing here judges a configuration; a model that cannot be read never stops the others.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repo_builder.config.render import ALTERNATIVES_FOLDER
from repo_builder.lint.backends import backend_of
from repo_builder.lint.findings import Finding, Rule
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import CONFIG_NAME, model_versions
from tritonfleet.server.pbtxt import ModelConfig, parse_config, served_versions

_LARGEST_CONFIG_BYTES = 8 << 20

CONFIG_PARSE = Rule("config-parse", "error", "a configuration that is none")
UNREADABLE = Rule("unreadable", "error", "a file or folder that cannot be read")
STRAY_FOLDER = Rule("stray-folder", "warning", "a folder that Triton takes for a model")
NOT_A_REPOSITORY = Rule("not-a-repository", "error", "a model's folder in place of a repository")


@dataclass(frozen=True, slots=True)
class Subject:
    """One configuration of a model, beside the files it speaks of."""

    model: str
    folder: Path
    file: str
    """The configuration's name in the folder; empty where there is none."""
    text: str
    config: Any
    """A ModelConfig: empty where there is no file, or where it does not parse."""
    parsed: bool
    versions: tuple[int, ...]
    backend: str

    @property
    def served(self) -> tuple[int, ...]:
        """The versions that the version policy makes Triton load."""
        return served_versions(self.config, self.versions)

    @property
    def batched(self) -> bool:
        """Whether requests carry a batch dimension that ``dims`` do not mention."""
        return bool(self.config.max_batch_size > 0)


@dataclass(frozen=True, slots=True)
class Repository:
    """All models of a repository; the first subject of each is its config.pbtxt."""

    path: Path
    models: Mapping[str, tuple[Subject, ...]]
    findings: tuple[Finding, ...]
    """What came up while reading."""

    @property
    def configs(self) -> dict[str, Any]:
        """The configuration of each model whose config.pbtxt parses."""
        return {name: found[0].config for name, found in self.models.items() if found[0].parsed}


class _Reader:
    """Collects findings while models are read."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []

    def note(self, model: str, finding: Finding) -> None:
        self.findings.append(replace(finding, model=model))

    def unreadable(self, model: str, path: Path, error: OSError) -> None:
        message = f"{path} cannot be read: {error.strerror or error}"
        self.note(model, UNREADABLE.found(message, "Give the server's user the right to read it."))


def read_repository(path: Path) -> Repository:
    """Every folder of a repository, as far as it can be read."""
    reader = _Reader()
    models = {}
    try:
        names = sorted(entry.name for entry in path.iterdir() if _is_folder(entry))
    except OSError as error:
        reader.unreadable("", path, error)
        names = []
    if (path / CONFIG_NAME).exists():
        message = f"{path} is a model's folder, not a repository of models"
        reader.note("", NOT_A_REPOSITORY.found(message, f"Lint {path.parent}."))
        names = []
    for name in names:
        subjects = tuple(_read_model(path / name, reader))
        if subjects:
            models[name] = subjects
    return Repository(path, models, tuple(reader.findings))


def _is_folder(path: Path) -> bool:
    """Whether it is a folder or leads to one; links that lead round in a circle do not."""
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises where access is denied


def _read_model(folder: Path, reader: _Reader) -> Iterator[Subject]:
    model = folder.name
    try:
        versions = model_versions(folder)
        has_config = os.path.lexists(folder / CONFIG_NAME)
    except OSError as error:
        reader.unreadable(model, folder, error)
        return
    if not has_config and (not versions or model.startswith(".")):
        message = "Triton takes every folder of a repository for a model, and this one is none"
        reader.note(model, STRAY_FOLDER.found(message, "Move it out of the repository."))
        return
    yield _subject(folder, CONFIG_NAME if has_config else "", versions, reader)
    for file in _alternatives(folder, reader):
        yield _subject(folder, file, versions, reader)


def _alternatives(folder: Path, reader: _Reader) -> list[str]:
    try:
        found = sorted((folder / ALTERNATIVES_FOLDER).glob("*.pbtxt"))
    except OSError as error:
        reader.unreadable(folder.name, folder / ALTERNATIVES_FOLDER, error)
        return []
    return [f"{ALTERNATIVES_FOLDER}/{path.name}" for path in found]


def _subject(folder: Path, file: str, versions: tuple[int, ...], reader: _Reader) -> Subject:
    text, config, parsed = "", ModelConfig(), False
    try:
        if file:
            text = _read_text(folder / file)
            config = parse_config(folder.name, text)
            parsed = True
    except OSError as error:
        reader.unreadable(folder.name, folder / file, error)
    except ValueError as error:
        fix = "Write it as protobuf text, in UTF-8."
        reader.note(folder.name, CONFIG_PARSE.found(str(error), fix, file))
    except InvalidModelConfig as error:
        reader.note(folder.name, CONFIG_PARSE.found(_cause(error), error.hint, file))
    newest = folder / str(versions[-1]) if versions else None
    backend = backend_of(config, newest)
    return Subject(folder.name, folder, file, text, config, parsed, versions, backend)


def _cause(error: InvalidModelConfig) -> str:
    """Line, column and reason; the file's name is told by the place."""
    return f"does not parse: {error.cause.partition(' does not parse: ')[2] or error.cause}"


def _read_text(path: Path) -> str:
    """The text of a configuration; ValueError for what is no text."""
    if path.stat().st_size > _LARGEST_CONFIG_BYTES:
        raise ValueError(f"has {path.stat().st_size} bytes, more than any configuration")
    data = path.read_bytes()
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(f"is not UTF-8 text (line {line}, byte {error.start})") from error
