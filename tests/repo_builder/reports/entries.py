"""Manifest entries for tests of what is told of them."""

from __future__ import annotations

from typing import Any

from tritonfleet.server.layout import (
    EarlierVersion,
    Footprint,
    Manifest,
    ManifestEntry,
    Measurement,
    ParityRecord,
    ProofRecord,
    VariantRecord,
)

MIB = 2**20


def parity(worst: float = 2e-6, tolerance: float | None = 1e-4, **fields: Any) -> ParityRecord:
    return ParityRecord(worst=worst, tolerance=tolerance, worst_case="batch 8", cases=6, **fields)


def measured(*ms: float, memory: int | None = None) -> Measurement:
    """At batches of 1, 8 and so on."""
    return Measurement(latency_ms=dict(zip((1, 8, 32), ms, strict=False)), memory_bytes=memory)


def variant(name: str, status: str = "passed", **fields: Any) -> VariantRecord:
    given = {"exporter": "onnx", "backend": "onnxruntime", "precision": "fp32", **fields}
    return VariantRecord(name=name, status=status, **given)


def entry(**fields: Any) -> ManifestEntry:
    given = {
        "fingerprint": "a:b", "version": 1, "backend": "onnxruntime", "source": {"kind": "python"},
        "digest": "d", "artifact_bytes": MIB, **fields,
    }  # fmt: skip
    return ManifestEntry.model_validate(given)


def full() -> ManifestEntry:
    """A model of which everything is known."""
    before = entry(built_at="2026-01-01T10:00:00+00:00", variant="onnx").model_dump(mode="json")
    return entry(
        version=2,
        source={"kind": "huggingface", "model": "org/bert", "commit": "abc"},
        signature={"inputs": {"ids": "INT64[batch, sequence]"}, "outputs": {"y": "FP32[batch, 3]"}},
        variant="int8",
        variants=(
            variant("onnx", artifact_bytes=90 * MIB, parity=parity(), measured=measured(8, 40)),
            variant(
                "int8", "published", precision="int8", artifact_bytes=23 * MIB, metric=0.83,
                parity=parity(4e-2, None, cosine_similarity=0.991),
                measured=measured(4, 16, memory=90 * MIB),
            ),
            variant("fp16", "failed", precision="fp16", error="no <kernel> | for it",
                    parity=parity(3e-1, 1e-2)),
        ),
        original=measured(16, 50, memory=400 * MIB),
        original_metric=0.84,
        parity=parity(4e-2, None, cosine_similarity=0.991),
        proof=ProofRecord(server="tritonserver 2.51.0", load_s=0.2, batch_sizes=(1, 8), worst=1e-6),
        footprint=Footprint(
            weights_bytes=60 * MIB, peak_bytes=93 * MIB, instances=2, shared_weights=True,
            home="server", batch_size=8,
        ),
        packages={"torch": "2.13.0"},
        timings_s={"fetch": 0.1, "export": 8.25},
        built_at="2026-01-02T10:00:00+00:00",
        warnings=("one variant was not made",),
        files={"1/model.onnx": "x", "2/model.onnx": "y"},
        earlier={1: EarlierVersion(entry=before, files={})},
    )  # fmt: skip


def manifest() -> Manifest:
    return Manifest(models={"bert": full(), "tokenizer": entry(), "whole": entry(
        backend="ensemble", artifact_bytes=0, requires=("bert", "tokenizer"),
        source={"kind": "ensemble"})})  # fmt: skip
