"""The last steps of a model: render its configuration, have a server prove it, publish it.

One model at a time, in the builder's own process.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from repo_builder.config.render import RenderedConfig
from repo_builder.fingerprint import DigestCache
from repo_builder.footprints import larger
from repo_builder.judging.examples import read_arrays
from repo_builder.judging.gates import Gate, gate_for
from repo_builder.judging.reference import Reference
from repo_builder.plan import Plan, fingerprint_of, parts_of, published_digest
from repo_builder.product import Product
from repo_builder.publishing.publish import Staged, commit, stage
from repo_builder.scratch.order import Proof, ProofOrder
from repo_builder.scratch.server import ScratchServer
from repo_builder.sources.location import artifact_path
from repo_builder.workshop import Workshop
from tritonfleet.server.layout import Manifest, ManifestEntry
from tritonfleet.spec.export import ExportSpec
from tritonfleet.spec.sources import HuggingFaceSource, PythonSource


@dataclass(frozen=True, slots=True)
class Finish:
    """Turns finished version folders into published models."""

    shop: Workshop
    staging: Path
    scratch: ScratchServer
    digest: DigestCache

    def publish(
        self, model: str, product: Product, contents: Path | None, needed: Plan, manifest: Manifest
    ) -> ManifestEntry:
        """What the manifest says of it from now on; ``contents`` is the folder of a new version.

        Raises InvalidModelConfig, ProofFailed or PublishFailed; the repository is then as it was.
        """
        start = time.perf_counter()
        self.shop.watcher.phase(model, "publish")
        parts = needed.parts or self._parts(model, manifest)
        config = self.shop.config(model, product)
        serving = self.shop.fleet.serving(model)
        staged = stage(model, contents, config, serving, self.shop.repository, self.staging)
        seconds = {**product.seconds, "publish": round(time.perf_counter() - start, 3)}
        product, proof = self._prove(replace(product, seconds=seconds), staged, config)
        if contents is None and needed.published:
            proof = replace(proof, footprint=larger(needed.published.footprint, proof.footprint))
        entry = self._entry(product, proof, staged, parts)
        return commit(staged, entry, self.shop.repository, self.digest)

    def _parts(self, model: str, manifest: Manifest) -> dict[str, str] | None:
        """What had to be fetched first can be told only now."""
        source = self.shop.source(model)
        return parts_of(self.shop, model, source, self.digest, manifest)

    def _prove(
        self, product: Product, staged: Staged, config: RenderedConfig
    ) -> tuple[Product, Proof]:
        """What a scratch server makes of the staged model; ProofFailed unless it serves it."""
        shop, model = self.shop, staged.model
        export = shop.fleet.export(model)
        if not shop.proof or export.proof == "off":
            return product, Proof()
        shop.watcher.phase(model, "proof")
        start = time.perf_counter()
        order = ProofOrder(
            model,
            staged.folder,
            staged.version,
            config.message,
            export.proof,
            members={name: shop.repository / name for name in shop.fleet.requires(model)},
            reference=Reference(product.reference) if product.reference else None,
            gate=published_gate(export, product),
            examples=self._examples(model),
        )
        proof = self.scratch.prove(order)
        seconds = {**product.seconds, "proof": round(time.perf_counter() - start, 3)}
        return replace(product, seconds=seconds), proof

    def _examples(self, model: str) -> Mapping[str, Any] | None:
        """Real inputs for a model whose original cannot be asked."""
        where = self.shop.fleet.export(model).examples
        if where is None or not isinstance(self.shop.fleet.models[model].source, PythonSource):
            return None
        return read_arrays(model, artifact_path(where, self.shop.context(model)))

    def _entry(
        self, product: Product, proof: Proof, staged: Staged, parts: dict[str, str] | None
    ) -> ManifestEntry:
        spec = self.shop.fleet.models[staged.model]
        source = {**spec.source.model_dump(mode="json", exclude_unset=True), **product.facts}
        if product.labels and not spec.members:
            source["labels"] = {name: list(row) for name, row in product.labels.items()}
        return ManifestEntry(
            # A remote source that changed under the build is like nothing: built again next time.
            fingerprint=str(fingerprint_of(parts)) if parts else "",
            parts=parts or {},
            version=staged.version,
            backend=product.backend or "ensemble",
            source=source,
            digest=published_digest(staged.folder, staged.version, self.digest),
            artifact_bytes=staged.artifact_bytes,
            requires=self.shop.fleet.requires(staged.model),
            random_weights=isinstance(spec.source, HuggingFaceSource)
            and spec.source.random_weights is not None,
            signature=product.signature.texts(),
            variant=product.variant,
            variants=product.variants,
            original=product.original,
            original_metric=product.original_metric,
            parity=product.parity,
            proof=proof.record,
            footprint=proof.footprint,
            metrics=dict(product.metrics),
            packages=dict(product.packages),
            timings_s=dict(product.seconds),
            built_at=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            warnings=(proof.warning,) if proof.warning else (),
        )


def published_gate(export: ExportSpec, product: Product) -> Gate | None:
    """The measure that the published variant was held to; None where nothing was."""
    if product.parity is None:
        return None
    variant = {each.label: each for each in export.variants}.get(product.variant)
    if variant is None:
        return gate_for(export.parity, "fp32")
    return gate_for(variant.parity or export.parity, variant.arithmetic)
