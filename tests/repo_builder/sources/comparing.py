"""Artifacts held against their originals, and sources loaded the way a build does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from repo_builder.exporters.onnx import OnnxExporter
from repo_builder.judging.parity import cases, original
from repo_builder.judging.runners import OnnxRunner
from repo_builder.signature import Signature, read_signature
from repo_builder.sources.base import Checkpoint, CheckpointSource, SourceContext
from tritonfleet.spec.export import ExportSpec, ParitySpec


def loaded(source: CheckpointSource[Any], spec: Any, context: SourceContext) -> Checkpoint:
    return source.load(spec, context, source.fetch(spec, context))


def exported(checkpoint: Checkpoint, folder: Path) -> tuple[Path, Signature]:
    path = OnnxExporter().export("m", checkpoint, ExportSpec(), folder)
    return path, read_signature("m", path)


def worst_differences(
    checkpoint: Checkpoint, path: Path, parity: ParitySpec | None = None
) -> dict[str, float]:
    """The worst difference of each case, in proportion to the largest value."""
    ask, run = original("m", checkpoint), OnnxRunner("m", path, read_signature("m", path)).run
    worst = {}
    for index, case in enumerate(cases(checkpoint, parity or ParitySpec())):
        inputs = checkpoint.sample(case.sizes, np.random.default_rng(index))
        expected, got = ask(inputs), run(inputs)
        assert list(expected) == list(got) == list(checkpoint.outputs)
        worst[str(case)] = max(
            float(np.abs(expected[key] - got[key]).max(initial=0) / np.abs(expected[key]).max())
            for key in expected
        )
    return worst
