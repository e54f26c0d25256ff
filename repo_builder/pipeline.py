"""The whole way of a model: fetch, export, check, choose, render config, prove, publish.

Plain and synchronous. What needs PyTorch runs in a process of its own for each model, several at
once as cores and memory allow; everything that touches the repository happens here, one model
after the other. A model that fails takes nobody along but the ensembles that need it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repo_builder.admission import Limits, export_bytes
from repo_builder.config.render import DEFAULT_MAX_BATCH_SIZE
from repo_builder.export_process import ExportOrder, export_model
from repo_builder.fingerprint import DigestCache, package_versions
from repo_builder.finish import Finish
from repo_builder.fork_server import ForkServer
from repo_builder.isolation import IsolatedCall, Progress, first_ready, fork_server
from repo_builder.plan import Need, Plan, plan
from repo_builder.product import Product, published_product
from repo_builder.publishing.publish import remove
from repo_builder.publishing.staging import open_staging
from repo_builder.results import BuildReport, BuildResult
from repo_builder.scratch.server import ScratchServer
from repo_builder.sources.base import AssembledSource
from repo_builder.workshop import Workshop, select, stale_models
from tritonfleet.errors import BuildError, FleetError
from tritonfleet.server.layout import Manifest, read_manifest


def build_fleet(shop: Workshop, models: Iterable[str] = ()) -> BuildReport:
    """Builds the named models with their members, or all; what fails does not stop the others.

    Raises ModelNotFound for an unknown name, PublishFailed when the repository is being built.
    """
    wanted = select(shop.fleet, models)
    with ExitStack() as stack:
        staging = stack.enter_context(open_staging(shop.repository))
        scratch = stack.enter_context(
            ScratchServer(
                staging / "scratch", shop.state_dir, onnxruntime_backend=shop.onnxruntime_backend
            )
        )
        forks = stack.enter_context(fork_server(shop.log("exports")))
        digest = DigestCache.load(shop.digests)
        finish = Finish(shop, staging, scratch, digest)
        results = _Build(shop, staging, finish, forks, digest).run(wanted)
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
    work: Path
    plan: Plan
    need_bytes: int


@dataclass(slots=True)
class _Build:
    """One run over several models."""

    shop: Workshop
    staging: Path
    finish: Finish
    forks: ForkServer
    digest: DigestCache
    results: dict[str, BuildResult] = field(default_factory=dict)
    running: dict[str, _Export] = field(default_factory=dict)
    needs_bytes: dict[str, int] = field(default_factory=dict)
    manifest: Manifest = field(init=False)
    limits: Limits = field(init=False)

    def __post_init__(self) -> None:
        self.manifest = read_manifest(self.shop.repository)

    def run(self, models: tuple[str, ...]) -> tuple[BuildResult, ...]:
        """Every model's outcome, in the given order."""
        waiting = list(models)
        self.limits = Limits.of_this_machine(self.shop.jobs, len(models))
        self.shop.watcher.begin(len(models))
        try:
            while waiting or self.running:
                ready = next((model for model in waiting if self._may_start(model)), None)
                if ready is not None:
                    waiting.remove(ready)
                    self._attempt(ready, self._start)
                else:
                    self._follow_exports()
        finally:
            for export in self.running.values():
                export.call.kill()
        self.digest.save()
        return tuple(self.results[model] for model in models)

    def _may_start(self, model: str) -> bool:
        if any(member not in self.results for member in self.shop.fleet.models[model].members):
            return False
        running = [export.need_bytes for export in self.running.values()]
        return self.limits.admit(self._need_bytes(model) if running else 0, running)

    def _need_bytes(self, model: str) -> int:
        """Of its export; looked up once, for a waiting model is asked after at every event."""
        if model not in self.needs_bytes:
            self.needs_bytes[model] = export_bytes(self._weights(model))
        return self.needs_bytes[model]

    def _weights(self, model: str) -> Path | None:
        """The local files that a model's weights come from, as far as they can be told."""
        source = self.shop.fleet.models[model].source
        named = getattr(source, "path", None) or getattr(source, "model", None)
        path = self.shop.base / named if named else None
        return path if path is not None and path.exists() else None

    def _attempt(self, model: str, step: Callable[..., None], *arguments: Any) -> None:
        """Runs a step of one model; what goes wrong in it is that model's failure."""
        try:
            step(model, *arguments)
        except FleetError as error:
            self._report(BuildResult(model, "failed", error=error))
        except OSError as error:
            cause = f"{error.filename}: {error.strerror}" if error.filename else str(error)
            hint = "The published repository is unchanged."
            self._report(BuildResult(model, "failed", error=BuildError(model, cause, hint)))

    def _report(self, result: BuildResult) -> None:
        self.results[result.model] = result
        self.shop.watcher.finished(result)

    def _start(self, model: str) -> None:
        """Does what a model needs, or begins it."""
        self._check_members(model)
        source = self.shop.source(model)
        needed = plan(self.shop, model, source, self.digest, self.manifest)
        if needed.need is Need.NOTHING and needed.published:
            self._report(BuildResult.of_entry(model, "unchanged", needed.published))
        elif needed.need is Need.REJECTED and needed.published:
            self._report(BuildResult.of_entry(model, "rejected", needed.published))
        elif needed.need is Need.CONFIG and needed.published:
            product = published_product(needed.published)
            self._publish(model, product, None, needed)
        elif isinstance(source, AssembledSource):
            self._assemble(model, source, needed)
        else:
            self._begin_export(model, needed)

    def _check_members(self, model: str) -> None:
        for member in self.shop.fleet.models[model].members:
            if self.results[member].status == "failed":
                raise BuildError(model, f"its member '{member}' failed", "Repair that one first.")

    def _assemble(self, model: str, source: AssembledSource[Any], needed: Plan) -> None:
        self.shop.watcher.phase(model, "assemble")
        start = time.perf_counter()
        contents = self._contents(model)
        context = self.shop.context(model)
        product = source.assemble(self.shop.fleet.models[model].source, context, contents)
        seconds = {"assemble": round(time.perf_counter() - start, 3)}
        product = replace(product, seconds=seconds, packages=package_versions())
        self._publish(model, product, contents, needed)

    def _contents(self, model: str) -> Path:
        """An empty version folder in staging."""
        folder = self.staging / f"{model}.version"
        folder.mkdir()
        return folder

    def _begin_export(self, model: str, needed: Plan) -> None:
        shop, contents, work = self.shop, self._contents(model), self.staging / f"{model}.work"
        serving = shop.fleet.serving(model)
        batch = serving.max_batch_size
        order = ExportOrder(
            shop.context(model),
            shop.fleet.models[model].source,
            shop.fleet.export(model),
            contents,
            work,
            shop.cache / model,
            DEFAULT_MAX_BATCH_SIZE if batch is None else batch,
            self.limits.threads,
        )
        call = IsolatedCall(self.forks, model, export_model, order, shop.log(model))
        self.running[model] = _Export(call, contents, work, needed, self._need_bytes(model))

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
            self._report(BuildResult(call.model, "failed", error=event.error))
        else:
            self._attempt(call.model, self._publish, event.value, export.contents, export.plan)
        shutil.rmtree(export.work, ignore_errors=True)

    def _publish(self, model: str, product: Product, contents: Path | None, needed: Plan) -> None:
        entry = self.finish.publish(model, product, contents, needed, self.manifest)
        self.manifest = self.manifest.with_entry(model, entry)
        self._report(BuildResult.of_entry(model, "built", entry))
