"""What happens inside the process of one model: fetch, load, export, check, measure, choose.

One process for all of it, because loading the weights, or training them, should happen once. It
holds the original; candidates are made and checked in forks of it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repo_builder.candidates import (
    ONNX_BACKEND,
    Candidate,
    Trial,
    export_candidate,
    order_for,
    variant_candidate,
)
from repo_builder.causes import root_cause
from repo_builder.fingerprint import package_versions
from repo_builder.forked import run_forked
from repo_builder.isolation import Report
from repo_builder.judging.examples import calibration_requests, load_examples, with_examples
from repo_builder.judging.measure import choose, latencies_ms, memory_bytes, requests_for
from repo_builder.judging.metric import load_metric
from repo_builder.judging.parity import original, record_reference
from repo_builder.judging.reference import Reference, Tensors
from repo_builder.judging.runners import open_runner, use_threads
from repo_builder.product import Product
from repo_builder.sources.base import Checkpoint, Predict, SourceContext
from repo_builder.sources.location import artifact_path
from tritonfleet.errors import ExportFailed, FleetError
from tritonfleet.plugins import lookup
from tritonfleet.server.layout import Measurement, VariantRecord
from tritonfleet.spec.export import ExportSpec, OnnxVariant, Variant

_ORIGINAL = "original"


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """All that an export needs to know."""

    context: SourceContext
    source: Any
    export: ExportSpec
    folder: Path
    """The version folder to fill; it is empty."""
    work: Path
    """For candidates and the reference; it does not exist yet."""
    cache: Path
    """Outlives the build, for timing caches and the like."""
    max_batch_size: int = 8
    threads: int = 0
    """For arithmetic; 0 leaves it to the libraries."""


@dataclass(slots=True)
class _Stopwatch:
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str, told: str = "") -> Iterator[None]:
        self.report(told or name)
        start = time.perf_counter()
        yield
        spent = time.perf_counter() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 3)


def export_model(order: ExportOrder, report: Report) -> Product:
    """Fills the order's folder with the chosen artifact; raises BuildError."""
    watch = _Stopwatch(report)
    checkpoint, calibration = _load(order, watch)
    trial = _trial(order, checkpoint, watch)
    base, attempts = _base(order, trial, watch)
    variants = _variants(order, trial, base, calibration, watch)
    passed = [each for each in variants if each.passed] or [base]
    speeds: Mapping[str, Measurement] = {}
    if order.export.choose:
        with watch.phase("measure"):
            speeds = _measure(order, trial, passed)
    records = [_with_speed(each.record, speeds) for each in (*attempts, *variants)]
    chosen = _chosen(order.export, passed, speeds)
    _move_files(chosen.folder, order.folder)
    return _product(trial, chosen, records, speeds.get(_ORIGINAL), watch)


def _load(order: ExportOrder, watch: _Stopwatch) -> tuple[Checkpoint, tuple[Tensors, ...]]:
    """The original with its examples, and what quantisation may be calibrated with."""
    model, source = order.context.model, lookup("sources", order.source.kind)()
    with watch.phase("fetch"):
        fetched = source.fetch(order.source, order.context)
    with watch.phase("load"):
        # Before a factory trains: exports side by side with all cores each would wait for threads.
        if order.threads:
            _limit_threads(order.threads)
        checkpoint = source.load(order.source, order.context, fetched)
        examples = None
        if order.export.examples:
            where = artifact_path(order.export.examples, order.context)
            examples = load_examples(model, where, checkpoint, fetched)
            checkpoint = with_examples(checkpoint, examples)
        wanted = max((_samples(each) for each in order.export.variants), default=0)
        batch = max(min(order.max_batch_size, 8), 1)
        requests = calibration_requests(examples, checkpoint, wanted, batch) if wanted else ()
    return checkpoint, tuple(requests)


def _limit_threads(threads: int) -> None:
    """For the original and for what is made of it, or measuring would favour one of them."""
    import torch

    torch.set_num_threads(threads)
    use_threads(threads)


def _samples(variant: Variant) -> int:
    if isinstance(variant, OnnxVariant) and variant.quantize == "static":
        return variant.calibration_samples
    return 0


def _trial(order: ExportOrder, checkpoint: Checkpoint, watch: _Stopwatch) -> Trial:
    """Asks the original everything that the candidates will be asked."""
    model, export = order.context.model, order.export
    with watch.phase("reference"):
        folder = order.work / "reference"
        if checkpoint.onnx is None:
            reference = record_reference(model, checkpoint, export.parity, folder)
        else:  # ONNX Runtime starts threads, which a later fork would not have
            reference = Reference(folder)
            run_forked(
                model,
                "the process of the original",
                lambda: len(record_reference(model, checkpoint, export.parity, folder)),
            )
        tokens = _generated(model, checkpoint)
        metric = load_metric(model, export.metric, order.context.base) if export.metric else None
        value = None
        if metric is not None:
            value = run_forked(
                model, "the metric of the original", lambda: metric(original(model, checkpoint))
            )
    return Trial(model, checkpoint, export, reference, tokens, metric, value)


def _generated(model: str, checkpoint: Checkpoint) -> Any:
    if checkpoint.generate is None:
        return None
    try:
        return checkpoint.generate(original(model, checkpoint))
    # The loop runs the model's own code.
    except Exception as error:
        cause = f"the original does not generate: {root_cause(error)}"
        raise ExportFailed(model, cause) from error


def _base(
    order: ExportOrder, trial: Trial, watch: _Stopwatch
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The first exporter's artifact that passes, and all attempts up to it."""
    attempts: list[Candidate] = []
    for name in (order.export.exporter, *order.export.fallbacks):
        with watch.phase("export", f"export {name}"):
            attempts.append(export_candidate(trial, name, order.work / f"export-{name}"))
        if attempts[-1].passed:
            return attempts[-1], tuple(attempts)
    raise _all_failed(attempts)


def _all_failed(attempts: list[Candidate]) -> FleetError:
    first = attempts[0].error
    assert first is not None, "it was tried and failed"
    others = [f"{each.record.name}: {each.error}" for each in attempts[1:]]
    if not others:
        return first
    return ExportFailed(first.args[0], f"no exporter takes it: {first}", " ".join(others))


def _variants(
    order: ExportOrder, trial: Trial, base: Candidate, calibration: tuple[Tensors, ...],
    watch: _Stopwatch,
) -> tuple[Candidate, ...]:  # fmt: skip
    found = []
    for variant in order.export.variants:
        if _is_base(variant, base):
            found.append(_renamed(base, variant.label))
            continue
        with watch.phase("variants", f"variant {variant.label}"):
            folder = order.work / f"variant-{len(found)}"
            made = order_for(
                trial, variant, base, folder, order.cache, calibration, order.max_batch_size
            )
            found.append(variant_candidate(trial, made, base))
    return tuple(found)


def _is_base(variant: Variant, base: Candidate) -> bool:
    """Whether a variant is nothing but the exported file."""
    plain = OnnxVariant(format="onnx", name=variant.name)
    return variant == plain and base.record.backend == ONNX_BACKEND


def _renamed(base: Candidate, label: str) -> Candidate:
    record = base.record.model_copy(update={"name": label})
    return Candidate(record, base.folder, base.artifact, base.signature)


def _measure(order: ExportOrder, trial: Trial, passed: list[Candidate]) -> dict[str, Measurement]:
    """The original and all that passed, in turns; last of all, for it starts other threads.

    With one thread each: the pools of PyTorch and of every session wait for work by spinning, and
    in turns on the same cores they measure each other (57 ms for 14 were seen).
    """
    _limit_threads(1)
    model, checkpoint, spec = trial.model, trial.checkpoint, order.export.measure
    requests = requests_for(checkpoint, spec)
    largest = requests[max(requests)]
    memory = {each.record.name: _memory(model, each, largest) for each in passed}
    runners: dict[str, Predict] = {_ORIGINAL: original(model, checkpoint)}
    for each in passed:
        assert each.artifact is not None and each.signature is not None, "it has passed"
        runner = open_runner(each.record.backend, model, each.artifact, each.signature)
        runners[each.record.name] = runner.run
    found = latencies_ms(runners, requests, spec.seconds)
    return {
        name: Measurement(latency_ms=times, memory_bytes=memory.get(name))
        for name, times in found.items()
    }


def _memory(model: str, candidate: Candidate, largest: Tensors) -> int:
    backend, artifact, signature = (
        candidate.record.backend, candidate.artifact, candidate.signature,
    )  # fmt: skip
    assert artifact is not None and signature is not None, "it has passed"
    what = f"the process of '{candidate.record.name}'"
    return run_forked(
        model, what, lambda: memory_bytes(backend, model, artifact, signature, largest)
    )


def _with_speed(record: VariantRecord, speeds: Mapping[str, Measurement]) -> VariantRecord:
    return record.model_copy(update={"measured": speeds.get(record.name)})


def _chosen(
    export: ExportSpec, passed: list[Candidate], speeds: Mapping[str, Measurement]
) -> Candidate:
    """The best by measurement, or the first that passed."""
    if export.choose is None:
        return passed[0]
    best = choose(export.choose, (_with_speed(each.record, speeds) for each in passed))
    return next((each for each in passed if each.record.name == best), passed[0])


def _move_files(source: Path, target: Path) -> None:
    for path in source.iterdir():
        path.rename(target / path.name)


def _product(
    trial: Trial, chosen: Candidate, records: list[VariantRecord], speed: Measurement | None,
    watch: _Stopwatch,
) -> Product:  # fmt: skip
    assert chosen.signature is not None, "it has passed"
    checkpoint = trial.checkpoint
    return Product(
        chosen.record.backend,
        chosen.signature,
        labels=checkpoint.labels,
        parity=chosen.record.parity,
        metrics=checkpoint.metrics,
        facts=checkpoint.facts,
        seconds=watch.seconds,
        packages=package_versions(),
        variant=chosen.record.name,
        variants=tuple(_published(record, chosen) for record in _without_twins(records)),
        original=speed,
        original_metric=trial.original_metric,
        reference=trial.reference.folder,
    )


def _without_twins(records: list[VariantRecord]) -> list[VariantRecord]:
    """One record for each name: the exported file may be a declared variant as well."""
    return list({record.name: record for record in records}.values())


def _published(record: VariantRecord, chosen: Candidate) -> VariantRecord:
    if record.name != chosen.record.name:
        return record
    return record.model_copy(update={"status": "published"})
