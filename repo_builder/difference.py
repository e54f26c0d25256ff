"""What a build would change, and why. Reads, compares, changes nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from repo_builder.fingerprint import DigestCache, package_versions
from repo_builder.plan import ARTIFACT_PARTS, Need, Plan, plan
from repo_builder.product import published_product
from repo_builder.workshop import Workshop, select, stale_models
from tritonfleet.errors import BuildError, FleetError
from tritonfleet.server.layout import CONFIG_NAME, Manifest, ManifestEntry, read_manifest

Action = Literal["new", "artifact", "config", "unchanged", "rejected", "stale", "unknown"]
MEANINGS: Mapping[Action, str] = {
    "new": "would be built",
    "artifact": "would be built anew",
    "config": "config.pbtxt would be rewritten",
    "unchanged": "",
    "rejected": "left alone since its rollback",
    "stale": "no longer in the fleet file; build --prune removes it",
    "unknown": "cannot be told",
}
_REASONS = {
    "source": "source options changed",
    "state": "files of the source changed",
    "export": "export options changed",
    "packages": "packages changed",
    "members": "members changed",
    "serving": "serving options changed",
    "labels": "labels changed",
    "templates": "templates changed",
}


@dataclass(frozen=True, slots=True)
class Change:
    """What a build would do with one model."""

    model: str
    action: Action
    reasons: tuple[str, ...] = ()
    config: str = ""
    """How config.pbtxt would change, as a unified diff; empty when only a build can tell."""

    def to_json(self) -> dict[str, Any]:
        """The change for machines."""
        return asdict(self)


def differences(shop: Workshop, models: Iterable[str] = ()) -> tuple[Change, ...]:
    """For each of the models, with their members, what a build would do.

    Raises ModelNotFound for an unknown name.
    """
    models = tuple(models)
    comparison = _Comparison(shop, read_manifest(shop.repository), DigestCache.load(shop.digests))
    for model in select(shop.fleet, models):
        comparison.add(model)
    comparison.digest.save()
    stale = () if models else stale_models(shop.fleet, shop.repository)
    return (*comparison.changes.values(), *(Change(model, "stale") for model in stale))


class _Comparison:
    def __init__(self, shop: Workshop, manifest: Manifest, digest: DigestCache) -> None:
        self.shop, self.manifest, self.digest = shop, manifest, digest
        self.changes: dict[str, Change] = {}

    def add(self, model: str) -> None:
        """Compares one model, its members before it."""
        try:
            self.changes[model] = self._change(model)
        except (FleetError, OSError) as error:
            text = error.cause if isinstance(error, BuildError) else str(error)
            self.changes[model] = Change(model, "unknown", (text,))

    def _change(self, model: str) -> Change:
        entry = self.manifest.models.get(model)
        members = tuple(self._moving_members(model))
        if entry is None:
            return Change(model, "new")
        if any(member not in self.manifest.models for member in self._members(model)):
            return Change(model, "artifact", members)
        source = self.shop.source(model)
        planned = plan(self.shop, model, source, self.digest, self.manifest)
        if planned.need is Need.REJECTED:
            return Change(model, "rejected", (f"version {entry.restored} is served again",))
        reasons = (*self._reasons(planned, entry), *members)
        if planned.need is Need.NOTHING:
            return Change(model, "artifact" if members else "unchanged", members)
        if planned.need is Need.CONFIG or _only_config(planned, entry):
            return Change(model, "config", reasons, self._config_diff(model, entry))
        return Change(model, "artifact", reasons)

    def _members(self, model: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.shop.fleet.models[model].members))

    def _moving_members(self, model: str) -> Iterator[str]:
        """An ensemble is made of its members' fingerprints, so that it is built when they are."""
        for member in self._members(model):
            if self.changes[member].action in ("new", "artifact", "config"):
                yield f"its member '{member}' would be built"

    def _reasons(self, planned: Plan, entry: ManifestEntry) -> tuple[str, ...]:
        if self.shop.force:
            return ("asked for by --force",)
        if planned.published is None:
            return ("the published files are not those of the manifest",)
        if planned.parts is None:
            return ("its source is not on this machine yet",)
        return tuple(_explained(planned.parts, entry))

    def _config_diff(self, model: str, entry: ManifestEntry) -> str:
        rendered = self.shop.config(model, published_product(entry)).text
        path = self.shop.repository / model / CONFIG_NAME
        published = path.read_text(encoding="utf-8")
        lines = difflib.unified_diff(
            published.splitlines(), rendered.splitlines(), f"{model}/{CONFIG_NAME}",
            f"{model}/{CONFIG_NAME} (would be)", lineterm="", n=2,
        )  # fmt: skip
        return "\n".join(lines)


def _only_config(planned: Plan, entry: ManifestEntry) -> bool:
    """Also of a model whose files are so cheap that a build writes them anew."""
    if planned.parts is None or planned.published is None or not entry.parts:
        return False
    if entry.backend == "ensemble":
        return False  # its configuration is its artifact
    return not set(_changed(planned.parts, entry)) & set(ARTIFACT_PARTS)


def _changed(parts: Mapping[str, str], entry: ManifestEntry) -> list[str]:
    names = dict.fromkeys((*entry.parts, *parts))
    return [name for name in names if parts.get(name) != entry.parts.get(name)]


def _explained(parts: Mapping[str, str], entry: ManifestEntry) -> Iterator[str]:
    if not entry.parts:
        yield "it was built by an earlier release, which did not record why"
        return
    for name in _changed(parts, entry):
        reason = _REASONS.get(name, f"{name} changed")
        moves = _package_moves(entry) if name == "packages" else ""
        yield f"{reason}: {moves}" if moves else reason


def _package_moves(entry: ManifestEntry) -> str:
    then, now = entry.packages, package_versions()
    return ", ".join(
        f"{name} {then.get(name, 'none')} -> {now.get(name, 'none')}"
        for name in sorted({*then, *now})
        if then.get(name) != now.get(name)
    )
