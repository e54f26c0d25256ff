"""Makes the candidates of one model and puts each through its gates, in a fork of its own.

A candidate is an exporter's artifact or a variant of the ONNX file. What fails is recorded with its
reason and takes nobody along.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from repo_builder import compatibility
from repo_builder.exporters.base import Exporter, VariantMaker, VariantOrder
from repo_builder.forked import run_forked
from repo_builder.judging.gates import gate_for
from repo_builder.judging.metric import judge_metric
from repo_builder.judging.parity import check_parity, check_tokens, token_agreement
from repo_builder.judging.reference import Array, Reference, Tensors
from repo_builder.judging.runners import Runner, open_runner
from repo_builder.signature import Signature
from repo_builder.sources.base import Checkpoint, Predict
from tritonfleet.errors import FleetError, VariantFailed
from tritonfleet.plugins import lookup
from tritonfleet.server.layout import ParityRecord, VariantRecord, directory_bytes
from tritonfleet.spec.export import ExportSpec, ParitySpec, Precision, Variant

ONNX_BACKEND = "onnxruntime"
Metric = Callable[[Predict], float]


@dataclass(frozen=True, slots=True)
class Trial:
    """What every candidate of a model is held against."""

    model: str
    checkpoint: Checkpoint
    spec: ExportSpec
    reference: Reference
    tokens: Array | None = None
    """What the original generates."""
    metric: Metric | None = None
    original_metric: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One attempt: its record, and its files if it passed."""

    record: VariantRecord
    folder: Path
    artifact: Path | None = None
    signature: Signature | None = None
    error: FleetError | None = None

    @property
    def passed(self) -> bool:
        """Whether it may be published."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class _Finding:
    """What a fork found out about an artifact."""

    artifact: Path
    signature: Signature
    parity: ParityRecord
    metric: float | None
    facts: Mapping[str, Any] = field(default_factory=dict)


def export_candidate(trial: Trial, exporter_name: str, folder: Path) -> Candidate:
    """What an exporter makes of the loaded module."""
    exporter: Exporter = lookup("exporters", exporter_name)()
    folder.mkdir(parents=True)

    def attempt() -> _Finding:
        artifact = exporter.export(trial.model, trial.checkpoint, trial.spec, folder)
        signature = exporter.signature(trial.model, artifact, trial.checkpoint)
        found = _check(trial, exporter.backend, artifact, signature, "fp32", trial.spec.parity)
        facts = compatibility.facts(artifact) if exporter.backend == ONNX_BACKEND else {}
        return replace(found, facts=facts)

    record = VariantRecord(
        name=exporter_name, exporter=exporter_name, backend=exporter.backend, precision="fp32",
        status="failed",
    )  # fmt: skip
    return _attempt(trial.model, record, folder, attempt)


def variant_candidate(trial: Trial, order: VariantOrder[Any], base: Candidate) -> Candidate:
    """What a variant maker makes of the exported file."""
    variant: Variant = order.spec
    maker: VariantMaker[Any] = lookup("variants", variant.format)()
    order.folder.mkdir(parents=True)

    def attempt() -> _Finding:
        if base.record.backend != ONNX_BACKEND:
            cause = f"variant '{variant.label}' is made of ONNX, and there is no ONNX file"
            hint = f"The model was exported by '{base.record.exporter}'."
            raise VariantFailed(trial.model, cause, hint)
        made = maker.make(order)
        signature = maker.signature(order, made)
        parity = variant.parity or trial.spec.parity
        found = _check(trial, maker.backend, made.artifact, signature, variant.arithmetic, parity)
        return replace(found, facts=made.facts)

    record = VariantRecord(
        name=variant.label, exporter=base.record.exporter, backend=maker.backend,
        precision=variant.arithmetic, status="failed",
    )  # fmt: skip
    return _attempt(trial.model, record, order.folder, attempt)


def _attempt(
    model: str, record: VariantRecord, folder: Path, attempt: Callable[[], _Finding]
) -> Candidate:
    start = time.perf_counter()
    try:
        found = run_forked(model, f"the process of '{record.name}'", attempt)
    except FleetError as error:
        seconds = round(time.perf_counter() - start, 3)
        return Candidate(
            record.model_copy(update={"error": str(error), "seconds": seconds}), folder, error=error
        )
    update = {
        "status": "passed",
        "artifact_bytes": directory_bytes(folder),
        "parity": found.parity,
        "metric": found.metric,
        "facts": dict(found.facts),
        "seconds": round(time.perf_counter() - start, 3),
    }
    return Candidate(record.model_copy(update=update), folder, found.artifact, found.signature)


def _check(
    trial: Trial, backend: str, artifact: Path, signature: Signature, precision: Precision,
    parity: ParitySpec,
) -> _Finding:  # fmt: skip
    """Through all gates, or an error that says at which it stopped."""
    runner = open_runner(backend, trial.model, artifact, signature)
    gate = gate_for(parity, precision)
    record = check_parity(trial.model, runner, trial.reference, signature, gate)
    if trial.checkpoint.generate is not None and trial.tokens is not None:
        got = trial.checkpoint.generate(runner.run)
        record = check_tokens(trial.model, record, token_agreement(trial.tokens, got), gate)
    return _Finding(artifact, signature, record, _metric(trial, runner))


def _metric(trial: Trial, runner: Runner) -> float | None:
    if trial.metric is None or trial.spec.metric is None or trial.original_metric is None:
        return None
    value = trial.metric(runner.run)
    judge_metric(trial.model, value, trial.original_metric, trial.spec.metric)
    return value


def order_for(
    trial: Trial, variant: Variant, base: Candidate, folder: Path, cache: Path,
    calibration: tuple[Tensors, ...], max_batch_size: int,
) -> VariantOrder[Any]:  # fmt: skip
    """What a variant maker gets to know."""
    assert base.artifact is not None and base.signature is not None, "the base has passed"
    return VariantOrder(
        model=trial.model,
        spec=variant,
        onnx=base.artifact,
        signature=base.signature,
        folder=folder,
        cache=cache,
        calibration=calibration,
        max_batch_size=max_batch_size,
        longest=trial.checkpoint.longest,
    )
