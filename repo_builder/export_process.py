"""What happens inside the process of one export: fetch, export, read signature, check parity.

One process for all of it, because loading the weights, or training them, should happen once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from repo_builder.fingerprint import package_versions
from repo_builder.isolation import Report
from repo_builder.parity import check_parity
from repo_builder.product import Product
from repo_builder.signature import read_signature
from repo_builder.sources.base import SourceContext
from tritonfleet.plugins import lookup
from tritonfleet.spec.fleet import ExportSpec


@dataclass(frozen=True, slots=True)
class ExportOrder:
    """All that an export needs to know."""

    context: SourceContext
    source: Any
    export: ExportSpec
    folder: Path
    """The version folder to fill."""


@dataclass(slots=True)
class _Stopwatch:
    report: Report
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self.report(name)
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)


def export_model(order: ExportOrder, report: Report) -> Product:
    """Fills the order's folder with a checked artifact; raises BuildError."""
    watch, model = _Stopwatch(report), order.context.model
    source = lookup("sources", order.source.kind)()
    exporter = lookup("exporters", order.export.exporter)()
    with watch.phase("fetch"):
        fetched = source.fetch(order.source, order.context)
    with watch.phase("load"):
        checkpoint = source.load(order.source, order.context, fetched)
    with watch.phase("export"):
        artifact = exporter.export(model, checkpoint, order.export, order.folder)
    with watch.phase("signature"):
        signature = read_signature(model, artifact)
    with watch.phase("parity"):
        parity = check_parity(model, checkpoint, artifact, signature, order.export.parity)
    return Product(
        exporter.backend,
        signature,
        labels=checkpoint.labels,
        parity=parity,
        metrics=checkpoint.metrics,
        facts=checkpoint.facts,
        seconds=watch.seconds,
        packages=package_versions(),
    )
