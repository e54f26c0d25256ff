"""A manifest entry as lines of text: what ``show`` and both reports put into their tables."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tritonfleet.server.layout import (
    Footprint,
    ManifestEntry,
    Measurement,
    ParityRecord,
    ProofRecord,
    VariantRecord,
)
from tritonfleet.units import format_bytes

ORIGINAL = "original"
"""The name of the eager model among the variants."""


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One candidate in words."""

    name: str
    precision: str
    backend: str
    size: str
    parity: str
    latencies: tuple[str, ...]
    """For each measured batch size."""
    rows_per_s: str
    memory: str
    metric: str
    status: str
    error: str


def batch_sizes(entry: ManifestEntry) -> tuple[int, ...]:
    """The sizes that anything was measured at, ascending."""
    measured = (each for _, each in measurements(entry))
    return tuple(sorted({batch for each in measured for batch in each.latency_ms}))


def measurements(entry: ManifestEntry) -> Iterable[tuple[str, Measurement]]:
    """What was measured, the original first."""
    if entry.original is not None:
        yield ORIGINAL, entry.original
    for variant in entry.variants:
        if variant.measured is not None:
            yield variant.name, variant.measured


def variant_rows(entry: ManifestEntry) -> tuple[VariantRow, ...]:
    """The original, where it was measured or scored, and every candidate."""
    batches = batch_sizes(entry)
    rows = [_variant_row(variant, entry, batches) for variant in entry.variants]
    if entry.original is not None or entry.original_metric is not None:
        rows.insert(0, _original_row(entry, batches))
    return tuple(rows)


def _original_row(entry: ManifestEntry, batches: tuple[int, ...]) -> VariantRow:
    return VariantRow(
        name=ORIGINAL,
        precision="",
        backend="PyTorch",
        size="",
        parity="",
        latencies=_latencies(entry.original, None, batches),
        rows_per_s=_rows_per_s(entry.original),
        memory=_memory(entry.original),
        metric=_metric(entry.original_metric),
        status="",
        error="",
    )


def _variant_row(
    variant: VariantRecord, entry: ManifestEntry, batches: tuple[int, ...]
) -> VariantRow:
    return VariantRow(
        name=variant.name,
        precision=variant.precision,
        backend=variant.backend,
        size=format_bytes(variant.artifact_bytes) if variant.artifact_bytes else "",
        parity=parity_text(variant.parity),
        latencies=_latencies(variant.measured, entry.original, batches),
        rows_per_s=_rows_per_s(variant.measured),
        memory=_memory(variant.measured),
        metric=_metric(variant.metric),
        status=variant.status,
        error=variant.error or "",
    )


def _latencies(
    measured: Measurement | None, original: Measurement | None, batches: tuple[int, ...]
) -> tuple[str, ...]:
    """Milliseconds, and how many times as fast as the original."""
    if measured is None:
        return ("",) * len(batches)
    known = original.latency_ms if original else {}
    return tuple(_latency(measured.latency_ms.get(b), known.get(b)) for b in batches)


def _latency(ms: float | None, original_ms: float | None) -> str:
    if ms is None:
        return ""
    return f"{ms:.3g} ms" + (f" ({original_ms / ms:.2f}×)" if original_ms and ms else "")


def _rows_per_s(measured: Measurement | None) -> str:
    return f"{measured.rows_per_s:,.0f}" if measured and measured.latency_ms else ""


def _memory(measured: Measurement | None) -> str:
    return format_bytes(measured.memory_bytes) if measured and measured.memory_bytes else ""


def _metric(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def parity_text(parity: ParityRecord | None) -> str:
    """The worst difference of what was allowed, or the figures that decided in its place."""
    if parity is None:
        return ""
    judged = {
        "cosine": parity.cosine_similarity,
        "argmax": parity.argmax_agreement,
        "top-k": parity.top_k_agreement,
        "tokens": parity.token_agreement,
    }
    figures = [f"{name} {value:.3g}" for name, value in judged.items() if value is not None]
    if parity.tolerance is not None or not figures:
        allowed = "" if parity.tolerance is None else f" of {parity.tolerance:.0e}"
        figures.insert(0, f"{parity.worst:.1e}{allowed}")
    return ", ".join(figures)


def time_text(at: str) -> str:
    """A manifest's time for people, to the minute."""
    return f"{at[:16].replace('T', ' ')} UTC" if at else ""


def proof_text(proof: ProofRecord | None) -> str:
    """What a server has done with it."""
    if proof is None:
        return "no server has loaded it before it was published"
    sizes = ", ".join(map(str, proof.batch_sizes))
    asked = f"answered batches of {sizes}" if sizes else "was loaded"
    worst = "" if proof.worst is None else f", {proof.worst:.1e} from the original at most"
    return f"{asked} in {proof.server}{worst}; loading took {proof.load_s:.2f} s"


def footprint_text(footprint: Footprint | None) -> str:
    """What it takes in memory."""
    if footprint is None:
        return "not measured"
    instances = f"{footprint.instances} instance{'s' if footprint.instances != 1 else ''}"
    shared = ", sharing weights" if footprint.shared_weights and footprint.instances > 1 else ""
    return (
        f"{format_bytes(footprint.weights_bytes)} loaded, "
        f"{format_bytes(footprint.peak_bytes)} after a batch of {footprint.batch_size} "
        f"({instances}{shared}, {footprint.home})"
    )


def source_text(entry: ManifestEntry) -> str:
    """Where it came from, in one line."""
    kind = str(entry.source.get("kind", "unknown"))
    keys = ("model", "factory", "path", "commit", "task")
    named = [str(entry.source[key]) for key in keys if entry.source.get(key)]
    random = ["random weights: predicts nothing"] if entry.random_weights else []
    return ", ".join((kind, *named, *random))


def version_rows(entry: ManifestEntry) -> tuple[tuple[str, ...], ...]:
    """Number, build time, variant, size and remark of every kept version, the newest first."""
    present = {name.partition("/")[0] for name in entry.files}
    entries = [entry]
    for number in sorted(entry.earlier, reverse=True):
        if not present or str(number) in present:
            entries.append(ManifestEntry.model_validate(entry.earlier[number].entry))
    return tuple(
        (
            str(each.version),
            time_text(each.built_at),
            each.variant or each.backend,
            format_bytes(each.artifact_bytes),
            _remark(each, newest=each is entry),
        )
        for each in entries
    )


def _remark(entry: ManifestEntry, newest: bool) -> str:
    remarks = ["newest"] if newest else []
    if entry.restored is not None:
        remarks.append(f"version {entry.restored} again, by a rollback")
    return ", ".join(remarks)


def timings_text(entry: ManifestEntry) -> str:
    """Seconds by phase."""
    return ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in entry.timings_s.items())


def packages_text(entry: ManifestEntry) -> str:
    """The versions that made it."""
    return ", ".join(f"{name} {version}" for name, version in sorted(entry.packages.items()))
