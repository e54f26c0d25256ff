"""Writes what the manifest knows as one HTML file and as Markdown with its plots beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from repo_builder.reports import rows
from repo_builder.reports.figures import Figure, fleet_figures, model_figures
from tritonfleet.errors import PublishFailed
from tritonfleet.server.layout import Manifest, ManifestEntry, replace_text
from tritonfleet.units import format_bytes

HTML_NAME = "report.html"
MARKDOWN_NAME = "report.md"
FIGURES_NAME = "figures"


@dataclass(frozen=True, slots=True)
class Section:
    """One model, as both reports tell it."""

    name: str
    entry: ManifestEntry
    batches: tuple[int, ...]
    variants: tuple[rows.VariantRow, ...]
    versions: tuple[tuple[str, ...], ...]
    facts: Mapping[str, str]
    figures: tuple[Figure, ...]

    @property
    def failures(self) -> tuple[rows.VariantRow, ...]:
        """The variants that were refused."""
        return tuple(row for row in self.variants if row.error)

    @property
    def columns(self) -> frozenset[str]:
        """Those of the variants' table that are not empty."""
        names = ("size", "parity", "rows_per_s", "memory", "metric")
        return frozenset(name for name in names if any(getattr(row, name) for row in self.variants))


def write_report(manifest: Manifest, folder: Path, title: str = "Models") -> tuple[Path, Path]:
    """Writes both reports and the plots; gives the HTML's path and the Markdown's.

    Raises PublishFailed when the folder cannot be written.
    """
    sections = [_section(name, entry) for name, entry in sorted(manifest.models.items())]
    fleet = tuple(fleet_figures(manifest))
    content = {
        "title": title,
        "sections": sections,
        "figures": fleet,
        "summary": _summary(manifest),
        "folder": FIGURES_NAME,
    }
    try:
        (folder / FIGURES_NAME).mkdir(parents=True, exist_ok=True)
        for figure in (*fleet, *(each for section in sections for each in section.figures)):
            replace_text(folder / FIGURES_NAME / f"{figure.name}.svg", figure.file)
        html, markdown = folder / HTML_NAME, folder / MARKDOWN_NAME
        replace_text(html, _rendered("report.html.j2", content))
        replace_text(markdown, _rendered("report.md.j2", content))
    except OSError as error:
        cause = f"{error.filename or folder}: {error.strerror}"
        raise PublishFailed("the report", cause, "Name another folder.") from error
    return html, markdown


def _section(name: str, entry: ManifestEntry) -> Section:
    return Section(
        name,
        entry,
        rows.batch_sizes(entry),
        rows.variant_rows(entry),
        rows.version_rows(entry),
        facts(entry),
        tuple(model_figures(name, entry)),
    )


def facts(entry: ManifestEntry) -> dict[str, str]:
    """What there is to say of a model outside of its tables."""
    said = {
        "source": rows.source_text(entry),
        "inputs": _tensors(entry, "inputs"),
        "outputs": _tensors(entry, "outputs"),
        "members": ", ".join(entry.requires),
        "parity": rows.parity_text(entry.parity),
        "measured": ", ".join(f"{name} {value:.4g}" for name, value in entry.metrics.items()),
        "proof": rows.proof_text(entry.proof),
        "memory": rows.footprint_text(entry.footprint),
        "timings": rows.timings_text(entry),
        "packages": rows.packages_text(entry),
    }
    return {name: text for name, text in said.items() if text}


def _tensors(entry: ManifestEntry, side: str) -> str:
    return ", ".join(f"{name} {text}" for name, text in entry.signature.get(side, {}).items())


def _summary(manifest: Manifest) -> dict[str, str]:
    entries = manifest.models.values()
    refused = sum(variant.status == "failed" for e in entries for variant in e.variants)
    unproven = sum(entry.proof is None for entry in entries)
    warned = sum(bool(entry.warnings) for entry in entries)
    said = {
        "models": str(len(manifest.models)),
        "on disk": format_bytes(sum(entry.artifact_bytes for entry in entries)),
        "in memory, all at once": format_bytes(
            sum(entry.footprint.peak_bytes for entry in entries if entry.footprint)
        ),
        "variants refused": str(refused),
        "not proven in a server": str(unproven),
        "with warnings": str(warned),
        "last built": rows.time_text(max((entry.built_at for entry in entries), default="")),
    }
    return {name: text for name, text in said.items() if text not in ("", "0", "0 B")}


def _rendered(template: str, content: Mapping[str, Any]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        autoescape=select_autoescape(("html.j2",)),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    environment.filters["bytes"] = format_bytes
    return environment.get_template(template).render(content)


def _cell(text: str) -> str:
    """A text that stays within its cell of a Markdown table."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
