"""What one build works with, and which models it is about."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repo_builder.results import Unwatched, Watcher
from repo_builder.sources.base import SourceContext
from tritonfleet.errors import FleetError, InvalidModelConfig, ModelNotFound
from tritonfleet.server.layout import read_manifest
from tritonfleet.spec.fleet import FleetSpec


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where a build takes from, where it puts things, and how it goes about it."""

    fleet: FleetSpec
    base: Path
    """The fleet file's folder: its relative paths start here."""
    repository: Path
    state_dir: Path
    """For the logs of exports, and the digests of large files."""
    jobs: int = 1
    force: bool = False
    prune: bool = False
    watcher: Watcher = field(default_factory=Unwatched)

    def context(self, model: str) -> SourceContext:
        """What a model's source may look at."""
        return SourceContext(model, self.base, self.repository)

    @property
    def digests(self) -> Path:
        """Where digests are kept from build to build."""
        return self.state_dir / "build" / "digests.json"

    def log(self, model: str) -> Path:
        """Where the output of a model's export goes."""
        return self.state_dir / "build" / f"{model}.log"


def select(fleet: FleetSpec, models: Iterable[str] = ()) -> tuple[str, ...]:
    """The named models, or all, each after the members it joins.

    Raises ModelNotFound for an unknown model, InvalidModelConfig for an ensemble of itself.
    """
    order: dict[str, None] = {}

    def visit(model: str, path: tuple[str, ...]) -> None:
        if model in path:
            circle = " -> ".join((*path[path.index(model) :], model))
            raise InvalidModelConfig(model, f"the ensemble contains itself: {circle}")
        if model not in fleet.models:
            raise _unknown(model, path, fleet)
        for member in fleet.models[model].members:
            visit(member, (*path, model))
        order[model] = None

    for model in tuple(models) or fleet.models:
        visit(model, ())
    return tuple(order)


def _unknown(model: str, path: tuple[str, ...], fleet: FleetSpec) -> FleetError:
    unknown = ModelNotFound(model, tuple(fleet.models))
    return InvalidModelConfig(path[-1], f"one of its members: {unknown}") if path else unknown


def stale_models(fleet: FleetSpec, repository: Path) -> tuple[str, ...]:
    """Models that were built here and that the fleet file no longer has."""
    return tuple(sorted(set(read_manifest(repository).models) - set(fleet.models)))
