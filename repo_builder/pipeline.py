"""The whole way of a model: fetch, export, read signature, check parity, render config, publish.

Plain and synchronous. What needs PyTorch runs in a process of its own for each model, several at
once if asked; everything that touches the repository happens here, one model after the other. A
model that fails takes nobody along but the ensembles that need it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from repo_builder.config import read_labels, render_config
from repo_builder.export_process import ExportOrder, export_model
from repo_builder.fingerprint import DigestCache, Fingerprint, package_versions
from repo_builder.isolation import IsolatedCall, Progress, first_ready
from repo_builder.plan import Need, Plan, fingerprint_of, plan, published_digest
from repo_builder.product import Product
from repo_builder.publish import Staged, commit, remove, stage
from repo_builder.results import BuildReport, BuildResult
from repo_builder.signature import read_signature
from repo_builder.sources.base import AssembledSource
from repo_builder.staging import open_staging
from repo_builder.workshop import Workshop, select, stale_models
from tritonfleet.errors import BuildError, FleetError
from tritonfleet.plugins import lookup
from tritonfleet.server.layout import ManifestEntry
from tritonfleet.spec.fleet import HuggingFaceSource


def build_fleet(shop: Workshop, models: Iterable[str] = ()) -> BuildReport:
    """Builds the named models with their members, or all; what fails does not stop the others.

    Raises ModelNotFound for an unknown name, PublishFailed when the repository is being built.
    """
    wanted = select(shop.fleet, models)
    with open_staging(shop.repository) as staging:
        results = _Build(shop, staging).run(wanted)
        stale = stale_models(shop.fleet, shop.repository)
        if not shop.prune:
            return BuildReport(results, stale=stale)
        for model in stale:
            remove(model, shop.repository, staging)
        return BuildReport(results, pruned=stale)


@dataclass(frozen=True, slots=True)
class _Export:
    """An export that runs."""

    call: IsolatedCall
    contents: Path
    plan: Plan


@dataclass(slots=True)
class _Build:
    """One run over several models."""

    shop: Workshop
    staging: Path
    results: dict[str, BuildResult] = field(default_factory=dict)
    running: dict[str, _Export] = field(default_factory=dict)
    digest: DigestCache = field(init=False)

    def __post_init__(self) -> None:
        self.digest = DigestCache.load(self.shop.digests)

    def run(self, models: tuple[str, ...]) -> tuple[BuildResult, ...]:
        """Every model's outcome, in the given order."""
        waiting = list(models)
        try:
            while waiting or self.running:
                ready = [model for model in waiting if self._members_done(model)]
                if ready and len(self.running) < self.shop.jobs:
                    waiting.remove(ready[0])
                    self._attempt(ready[0], self._start)
                else:
                    self._follow_exports()
        finally:
            for export in self.running.values():
                export.call.kill()
        self.digest.save()
        return tuple(self.results[model] for model in models)

    def _members_done(self, model: str) -> bool:
        return all(member in self.results for member in self.shop.fleet.models[model].members)

    def _attempt(self, model: str, step: Callable[..., None], *arguments: Any) -> None:
        """Runs a step of one model; what goes wrong in it is that model's failure."""
        try:
            step(model, *arguments)
        except FleetError as error:
            self._finish(BuildResult(model, "failed", error=error))
        except OSError as error:
            cause = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            hint = "The published repository is unchanged."
            self._finish(BuildResult(model, "failed", error=BuildError(model, cause, hint)))

    def _finish(self, result: BuildResult) -> None:
        self.results[result.model] = result
        self.shop.watcher.finished(result)

    def _start(self, model: str) -> None:
        """Does what a model needs, or begins it."""
        self._check_members(model)
        source = self._source(model)
        needed = plan(self.shop, model, source, self.digest)
        if needed.need is Need.NOTHING and needed.published:
            self._finish(BuildResult.of_entry(model, "unchanged", needed.published))
        elif needed.need is Need.CONFIG and needed.published:
            product = self._published_product(model, needed.published)
            self._publish(model, product, None, needed.fingerprint)
        elif isinstance(source, AssembledSource):
            self._assemble(model, source, needed)
        else:
            self._begin_export(model, needed)

    def _source(self, model: str) -> Any:
        return lookup("sources", self.shop.fleet.models[model].source.kind)()

    def _check_members(self, model: str) -> None:
        for member in self.shop.fleet.models[model].members:
            if self.results[member].status == "failed":
                raise BuildError(model, f"its member '{member}' failed", "Repair that one first.")

    def _published_product(self, model: str, entry: ManifestEntry) -> Product:
        """What an earlier build made, read back from where it is published."""
        self.shop.watcher.phase(model, "signature")
        folder = self.shop.repository / model / str(entry.version)
        artifact = lookup("exporters", self.shop.fleet.export(model).exporter).artifact_name
        return Product(
            entry.backend,
            read_signature(model, folder / artifact),
            labels={name: tuple(row) for name, row in entry.source.get("labels", {}).items()},
            parity=entry.parity,
            metrics=entry.metrics,
            facts={
                key: entry.source[key] for key in ("commit", "max_length") if key in entry.source
            },
            packages=entry.packages,
        )

    def _assemble(self, model: str, source: AssembledSource[Any], needed: Plan) -> None:
        self.shop.watcher.phase(model, "assemble")
        start = time.perf_counter()
        contents = self._contents(model)
        context = self.shop.context(model)
        product = source.assemble(self.shop.fleet.models[model].source, context, contents)
        seconds = {"assemble": round(time.perf_counter() - start, 3)}
        product = replace(product, seconds=seconds, packages=package_versions())
        self._publish(model, product, contents, needed.fingerprint)

    def _contents(self, model: str) -> Path:
        """An empty version folder in staging."""
        folder = self.staging / f"{model}.version"
        folder.mkdir()
        return folder

    def _begin_export(self, model: str, needed: Plan) -> None:
        shop, contents = self.shop, self._contents(model)
        source, export = shop.fleet.models[model].source, shop.fleet.export(model)
        order = ExportOrder(shop.context(model), source, export, contents)
        call = IsolatedCall(model, export_model, order, shop.log(model))
        self.running[model] = _Export(call, contents, needed)

    def _follow_exports(self) -> None:
        """Waits for one event of one export, and acts on it."""
        call = first_ready(export.call for export in self.running.values())
        event = call.next_event()
        if isinstance(event, Progress):
            self.shop.watcher.phase(call.model, event.phase)
            return
        export = self.running.pop(call.model)
        call.kill()
        if event.error is not None:
            self._finish(BuildResult(call.model, "failed", error=event.error))
        else:
            self._attempt(call.model, self._publish, event.value, export.contents,
                          export.plan.fingerprint)  # fmt: skip

    def _publish(
        self, model: str, product: Product, contents: Path | None, fingerprint: Fingerprint | None
    ) -> None:
        """Renders the configuration and moves the model in."""
        shop, serving = self.shop, self.shop.fleet.serving(model)
        shop.watcher.phase(model, "publish")
        start = time.perf_counter()
        # What had to be fetched first can be told only now.
        fingerprint = fingerprint or fingerprint_of(shop, model, self._source(model), self.digest)
        config = render_config(model, product, serving, read_labels(model, serving, shop.base))
        staged = stage(model, contents, config, serving, shop.repository, self.staging)
        digest = published_digest(staged.folder, staged.version, self.digest)
        seconds = {**product.seconds, "publish": round(time.perf_counter() - start, 3)}
        entry = self._entry(product, staged, str(fingerprint), digest, seconds)
        commit(staged, entry, shop.repository)
        self._finish(BuildResult.of_entry(model, "built", entry))

    def _entry(
        self, product: Product, staged: Staged, fingerprint: str, digest: str,
        seconds: dict[str, float],
    ) -> ManifestEntry:  # fmt: skip
        spec = self.shop.fleet.models[staged.model]
        source = {**spec.source.model_dump(mode="json", exclude_unset=True), **product.facts}
        if product.labels and not spec.members:
            source["labels"] = {name: list(row) for name, row in product.labels.items()}
        return ManifestEntry(
            fingerprint=fingerprint,
            version=staged.version,
            backend=product.backend or "ensemble",
            source=source,
            digest=digest,
            artifact_bytes=staged.artifact_bytes,
            requires=self.shop.fleet.requires(staged.model),
            random_weights=isinstance(spec.source, HuggingFaceSource)
            and spec.source.random_weights is not None,
            parity=product.parity,
            metrics=dict(product.metrics),
            packages=dict(product.packages),
            timings_s=seconds,
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        )
