"""All that is known of one published model, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from repo_builder.reports import rows
from repo_builder.reports.report import facts
from tritonfleet.server.layout import ManifestEntry

_COLOURS = {"published": "green", "passed": "dim", "failed": "red"}
_RIGHT = frozenset({"version", "size", "rows/s", "memory", "metric"})


def shown(model: str, entry: ManifestEntry) -> RenderableType:
    """The model's facts, its versions and its variants."""
    head = Text.assemble((model, "bold"), f"  version {entry.version}, ",
                         entry.variant or entry.backend)  # fmt: skip
    parts: list[RenderableType] = [head, Padding(_facts(entry), (0, 0, 0, 2))]
    parts.append(Padding(_table(("version", "built", "published", "size", ""),
                                rows.version_rows(entry)), (1, 0, 0, 2)))  # fmt: skip
    if entry.variants:
        parts.append(Padding(_variants(entry), (1, 0, 0, 2)))
        parts += [
            Text(f"  {row.name}: {row.error}", style="red")
            for row in rows.variant_rows(entry)
            if row.error
        ]
    parts += [Text(f"  {warning}", style="yellow") for warning in entry.warnings]
    return Group(*parts)


def _facts(entry: ManifestEntry) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    for name, text in facts(entry).items():
        grid.add_row(name, Text(text))
    return grid


def _variants(entry: ManifestEntry) -> Table:
    """Without the columns in which nothing stands, so that the rest has room."""
    batches = rows.batch_sizes(entry)
    headings = ("variant", "precision", "size", *(f"batch {batch}" for batch in batches), "rows/s",
                "memory", "parity", "metric", "status")  # fmt: skip
    lines = [
        (row.name, row.precision, row.size, *row.latencies, row.rows_per_s, row.memory, row.parity,
         row.metric, row.status)
        for row in rows.variant_rows(entry)
    ]  # fmt: skip
    used = [i for i, _ in enumerate(headings) if any(line[i] for line in lines)]
    return _table([headings[i] for i in used], [[line[i] for i in used] for line in lines])


def _table(headings: Sequence[str], lines: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in headings:
        right = heading in _RIGHT or heading.startswith("batch ")
        table.add_column(heading, justify="right" if right else "left", overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in line))
    return table


def console_for_tables() -> Console:
    """A console; wide enough for a table where the output goes into a file or a log."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    return console


_WIDTH = 140
