"""What one build works with, and which models it is about."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repo_builder.config.render import (
    RenderedConfig,
    data_file_names,
    read_data_files,
    read_labels,
    render_config,
)
from repo_builder.product import Product
from repo_builder.results import Unwatched, Watcher
from repo_builder.sources.base import SourceContext
from tritonfleet.errors import FleetError, InvalidModelConfig, ModelNotFound
from tritonfleet.plugins import lookup
from tritonfleet.server.layout import read_manifest
from tritonfleet.settings import OnnxruntimeBackend
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
    jobs: int | None = None
    """Exports at once; as many as cores and memory allow where not given."""
    force: bool = False
    prune: bool = False
    proof: bool = True
    """Whether a scratch tritonserver has to load a model before it is published."""
    onnxruntime_backend: OnnxruntimeBackend = "auto"
    """Of the scratch tritonserver: footprints depend on it."""
    watcher: Watcher = field(default_factory=Unwatched)

    def context(self, model: str) -> SourceContext:
        """What a model's source may look at."""
        return SourceContext(model, self.base, self.repository, self.state_dir / "build/artifacts")

    def source(self, model: str) -> Any:
        """The kind of source that a model has."""
        return lookup("sources", self.fleet.models[model].source.kind)()

    def config(self, model: str, product: Product) -> RenderedConfig:
        """A model's configuration as the fleet file asks for it; raises InvalidModelConfig."""
        serving = self.fleet.serving(model)
        labels = read_labels(model, serving, self.base)
        data_files = read_data_files(model, serving, self.base)
        return render_config(model, product, serving, labels, data_files)

    @property
    def cache(self) -> Path:
        """For what variants keep from build to build, such as timing caches."""
        return self.state_dir / "build" / "cache"

    @property
    def digests(self) -> Path:
        """Where digests are kept from build to build."""
        return digests_file(self.state_dir)

    def log(self, model: str) -> Path:
        """Where the output of a model's export goes."""
        return self.state_dir / "build" / f"{model}.log"


def digests_file(state_dir: Path) -> Path:
    """Where digests are kept, below the state directory."""
    return state_dir / "build" / "digests.json"


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


def watched_paths(shop: Workshop) -> tuple[Path, ...]:
    """The local files and folders from which the fleet's models are made."""
    named = (name for model in shop.fleet.models for name in _named_files(shop.fleet, model))
    paths = {(shop.base / name).resolve() for name in named}
    return tuple(sorted(path for path in paths if path.exists()))


def _named_files(fleet: FleetSpec, model: str) -> Iterator[str]:
    """Every text of a model's entry that may name a file."""
    source, export, serving = fleet.models[model].source, fleet.export(model), fleet.serving(model)
    for field_name in ("path", "model", "python_path", "state_dict"):
        value = getattr(source, field_name, None)
        yield from [value] if value else []
    yield from getattr(source, "files", ())
    yield from [export.examples] if export.examples else []
    if export.metric and export.metric.python_path:
        yield export.metric.python_path
    yield from (names for names in serving.labels.values() if isinstance(names, str))
    yield from data_file_names(serving)


def stale_models(fleet: FleetSpec, repository: Path) -> tuple[str, ...]:
    """Models that were built here and that the fleet file no longer has."""
    return tuple(sorted(set(read_manifest(repository).models) - set(fleet.models)))
