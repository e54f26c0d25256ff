"""Plots of a build, as SVG text.

Drawn without pyplot, so that nothing global changes. Every colour is one of a palette: inside a
page they become the page's own, which follow the reader's choice of dark or light.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from repo_builder.reports.rows import batch_sizes, measurements
from tritonfleet.server.layout import Manifest, ManifestEntry
from tritonfleet.units import format_bytes

INK, FAINT, ACCENT, PLAIN, BAD = "#1b2330", "#d5dae1", "#1f6feb", "#9aa7b8", "#c9372c"
PALETTE: Mapping[str, str] = {
    INK: "var(--ink)",
    FAINT: "var(--faint)",
    ACCENT: "var(--accent)",
    PLAIN: "var(--plain)",
    BAD: "var(--bad)",
}
MOST_MODELS = 40
"""In the fleet's plot: the largest."""
_WIDTH_IN = 4.6
_BAR_IN = 0.27
_LABEL_CHARACTERS = 24
# A difference of nothing has no place on a logarithmic axis.
_LEAST = 1e-9
_FONT_SIZE = 8.5
_MARKUP: Any = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": _FONT_SIZE,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot: its name for a file, what it shows, and its picture."""

    name: str
    caption: str
    svg: str

    @property
    def file(self) -> str:
        """For a file of its own, which knows nothing of the reader's background."""
        return self.svg.replace("<svg ", '<svg style="background: #fff" ', 1)

    @property
    def inline(self) -> str:
        """For a page, in the page's colours."""
        text = self.svg[self.svg.index("<svg") :]
        # Names of groups would be there once for each figure; what is referred to is hashed.
        text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
        for colour, variable in PALETTE.items():
            text = text.replace(colour, variable)
        return text.replace("<svg ", f'<svg role="img" aria-label="{escape(self.caption)}" ', 1)


@dataclass(frozen=True, slots=True)
class Bar:
    """One line of a plot."""

    label: str
    value: float | None
    text: str
    colour: str = PLAIN


def fleet_figures(manifest: Manifest) -> Iterator[Figure]:
    """Size on disk of every model, and what it takes in memory."""
    entries = sorted(manifest.models.items(), key=lambda item: -item[1].artifact_bytes)
    shown = [(name, entry) for name, entry in entries if entry.artifact_bytes][:MOST_MODELS]
    bars = [
        Bar(name, entry.artifact_bytes, format_bytes(entry.artifact_bytes), ACCENT)
        for name, entry in shown
    ]
    if bars:
        most = f"the {MOST_MODELS} largest models" if len(bars) == MOST_MODELS else "each model"
        yield Figure("fleet_size", f"Size on disk of {most}", _bars([("", bars)]))
    held = [
        Bar(name, e.footprint.peak_bytes, format_bytes(e.footprint.peak_bytes), ACCENT)
        for name, e in entries
        if e.footprint is not None
    ]
    if held:
        held = sorted(held, key=lambda bar: -(bar.value or 0))[:MOST_MODELS]
        yield Figure("fleet_memory", "Memory after the largest batch", _bars([("", held)]))


def model_figures(model: str, entry: ManifestEntry) -> Iterator[Figure]:
    """Size, latency and parity of a model's variants, where there is something to compare."""
    if len(entry.variants) < 2 and not any(measurements(entry)):
        return
    sizes = [
        Bar(
            v.name, v.artifact_bytes or None, format_bytes(v.artifact_bytes), _colour(v.name, entry)
        )
        if v.status != "failed"
        else _failed(v.name)
        for v in entry.variants
    ]
    yield Figure(f"{model}_size", f"Size of each variant of {model}", _bars([("", sizes)]))
    panels = [_latency_panel(entry, batch) for batch in _shown(batch_sizes(entry))]
    if panels:
        yield Figure(f"{model}_latency", f"Median latency of {model}", _bars(panels))
    if any(variant.parity for variant in entry.variants):
        caption = f"Largest difference of {model} from its original, and what is allowed"
        yield Figure(f"{model}_parity", caption, _parity(entry))


def _shown(batches: Sequence[int]) -> Sequence[int]:
    """The smallest, one between and the largest."""
    return batches if len(batches) <= 3 else (batches[0], batches[len(batches) // 2], batches[-1])


def _latency_panel(entry: ManifestEntry, batch: int) -> tuple[str, list[Bar]]:
    bars = [
        Bar(name, ms, f"{ms:.3g} ms", _colour(name, entry))
        for name, measured in measurements(entry)
        if (ms := measured.latency_ms.get(batch)) is not None
    ]
    return f"batch of {batch}", bars


def _colour(variant: str, entry: ManifestEntry) -> str:
    return ACCENT if variant == entry.variant else PLAIN


def _failed(label: str) -> Bar:
    return Bar(label, None, "failed", BAD)


def _bars(panels: Sequence[tuple[str, Sequence[Bar]]]) -> str:
    """Horizontal bars, one panel above the other, each value written at its bar's end."""
    heights = [len(bars) * _BAR_IN + (0.3 if title else 0.1) for title, bars in panels]
    figure, axes = _canvas(heights)
    for axis, (title, bars) in zip(axes, panels, strict=True):
        largest = max((bar.value or 0 for bar in bars), default=0) or 1
        for place, bar in enumerate(bars):
            axis.barh(place, bar.value or 0, height=0.62, color=bar.colour)
            colour = bar.colour if bar.value is None else INK
            end = (bar.value or 0) + largest * 0.015
            axis.text(end, place, bar.text, va="center", color=colour, fontsize=_FONT_SIZE)
        axis.set_xlim(0, largest * 1.3)
        axis.set_xticks([])
        _finish(axis, title, [bar.label for bar in bars])
    return _svg(figure)


def _parity(entry: ManifestEntry) -> str:
    """Differences on a logarithmic axis; a stroke marks what each was allowed."""
    judged = [variant for variant in entry.variants if variant.parity]
    figure, (axis,) = _canvas([len(judged) * _BAR_IN + 0.55])
    values = []
    for place, variant in enumerate(judged):
        parity = variant.parity
        assert parity is not None
        worst = max(parity.worst, _LEAST)
        passed = variant.status != "failed"
        axis.plot(worst, place, "o", color=_colour(variant.name, entry) if passed else BAD)
        values.append(worst)
        if parity.tolerance is not None:
            axis.plot(
                [parity.tolerance] * 2, [place - 0.32, place + 0.32], color=INK, linewidth=1.6
            )
            values.append(parity.tolerance)
    axis.set_xscale("log")
    axis.set_xlim(min(values) / 5, max(values) * 5)
    axis.grid(axis="x", color=FAINT, linewidth=0.6)
    axis.minorticks_off()
    axis.set_axisbelow(True)
    axis.set_xlabel("max|difference| / max|original|; stroke: allowed")
    _finish(axis, "", [variant.name for variant in judged])
    return _svg(figure)


def _canvas(heights: Sequence[float]) -> tuple[Any, Sequence[Any]]:
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    with rc_context(_MARKUP):
        canvas = Canvas(figsize=(_WIDTH_IN, sum(heights) + 0.1), layout="constrained")
        axes = canvas.subplots(len(heights), 1, squeeze=False, height_ratios=heights)
    return canvas, [row[0] for row in axes]


def _finish(axis: Any, title: str, labels: Sequence[str]) -> None:
    axis.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.tick_params(length=0)
    axis.spines[["top", "right", "bottom"]].set_visible(False)
    if title:
        axis.set_title(title, loc="left", fontsize=_FONT_SIZE, fontweight="bold")


def _short(label: str) -> str:
    return label if len(label) <= _LABEL_CHARACTERS else f"{label[: _LABEL_CHARACTERS - 1]}…"


def _svg(figure: Any) -> str:
    from matplotlib import rc_context

    text = io.StringIO()
    # The same figures give the same bytes.
    with rc_context({**_MARKUP, "svg.hashsalt": "tritonfleet"}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    return text.getvalue()
