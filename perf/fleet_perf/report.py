"""Results for people and for programs: tables, a Markdown file and a JSON file."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from fleet_perf.compare import ColdComparison, Spread, WarmComparison
from fleet_perf.promises import RoundsReport, WarmPairs
from fleet_perf.results import Results
from tritonfleet.errors import FleetError
from tritonfleet.units import format_bytes

WIDTH = 110
"""Of tables that go to a file or a pipe."""


def write(results: Results, folder: Path) -> None:
    """``results.json`` and ``results.md`` in a folder, which is made."""
    write_files(folder, results.as_json(), markdown(results))


def write_files(folder: Path, data: Mapping[str, Any], text: str) -> None:
    """Results for programs and for people, side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = json.dumps(data, indent=2) + "\n"
    (folder / "results.json").write_text(plain, encoding="utf-8")
    (folder / "results.md").write_text(text, encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Section:
    """A table with what stands above and below it."""

    title: str
    table: Table
    note: str = ""


def show(section: Section, console: Console) -> None:
    """Prints a section; the title apart, for rich would break it to the table's width."""
    console.print(section.title, style="bold", markup=False)
    console.print(section.table)
    if section.note:
        console.print(section.note, style="dim", markup=False)
    console.print()


def sections(results: Results) -> list[Section]:
    """The tables there is something to fill with."""
    found = []
    if results.warm:
        found.append(_warm(results.warm))
    if results.cold:
        found.append(_cold(results.cold, "Cold starts"))
    if results.rounds is not None:
        found += _rounds(results.rounds)
    return found


def markdown(results: Results) -> str:
    """The same tables as Markdown, with the environment on top."""
    title = f"{results.name}{' (quick)' if results.quick else ''}"
    return document(title, results.environment, sections(results), results.failed)


def document(
    title: str,
    environment: Mapping[str, Any],
    tables: Sequence[Section],
    failed: Sequence[FleetError],
) -> str:
    """Tables as Markdown, below the environment they come from."""
    load = ", ".join(f"{value:.2f}" for value in environment["load_average"])
    lines = [
        f"# {title}",
        "",
        f"Taken {environment['taken_at']} on {environment['cpu']}, "
        f"{environment['usable_cores']} cores, load average {load}, "
        f"commit {environment['commit'] or 'unknown'}.",
        "",
    ]
    for section in tables:
        lines += [f"## {section.title}", "", _as_markdown(section.table), ""]
        lines += [section.note, ""] if section.note else []
    if failed:
        lines += ["## Not measured", "", *(f"- {error}" for error in failed), ""]
    return "\n".join(lines)


def _as_markdown(table: Table) -> str:
    buffer = io.StringIO()
    shape, table.box = table.box, box.MARKDOWN
    Console(file=buffer, width=WIDTH, color_system=None).print(table)
    table.box = shape
    return "\n".join(line.strip() for line in buffer.getvalue().splitlines() if line.strip())


def table_of(*columns: str) -> Table:
    """An empty table whose first column is text and whose others are figures."""
    table = Table()
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", no_wrap=True)
    return table


def _warm(comparisons: Sequence[WarmComparison]) -> Section:
    table = table_of("model", "clients", "infer/s", "ratio", "p50 ms", "ratio", "p95 ms", "ratio")
    for found in comparisons:
        batch = f" × {found.batch_size} rows" if found.batch_size > 1 else ""
        table.add_row(
            found.model,
            f"{found.concurrency}{batch}",
            f"{found.direct_throughput:.0f} / {found.gateway_throughput:.0f}",
            f"{found.throughput.median:.2f}",
            _pair(found.direct_p50_us / 1e6, found.gateway_p50_us / 1e6),
            f"{found.p50.median:.2f}",
            _pair(found.direct_p95_us / 1e6, found.gateway_p95_us / 1e6),
            f"{found.p95.median:.2f}",
        )
    note = "Medians; each ratio is the median of the ratios of runs in a row."
    return Section("Warm models: directly / through the gateway", table, note)


def _cold(comparisons: Sequence[ColdComparison], title: str) -> Section:
    table = table_of("model", "pairs", "p50 ms", "ratio", "p95 ms", "ratio")
    for found in comparisons:
        table.add_row(
            found.model,
            str(found.gateway.count),
            _pair(found.bare.p50, found.gateway.p50),
            f"{found.ratio_p50:.2f}",
            _pair(found.bare.p95, found.gateway.p95),
            f"{found.ratio_p95:.2f}",
        )
    return Section(f"{title}: Triton alone / first answer through the gateway", table)


def _rounds(report: RoundsReport) -> list[Section]:
    found = [_kinds(report), _memory(report)]
    if report.cold_all is not None:
        found.append(_cold([*report.cold, report.cold_all], "Cold starts one at a time"))
    if report.warm:
        found.append(_warm_pairs(report.warm))
    return found


def _kinds(report: RoundsReport) -> Section:
    table = table_of("answers", "count", "p50 ms", "p95 ms", "p50 / bare start", "p95 / bare start")
    for kind, figures in report.kinds.items():
        table.add_row(
            kind,
            str(figures.latency_s.count),
            milliseconds(figures.latency_s.p50),
            milliseconds(figures.latency_s.p95),
            *_multiples(figures.over_bare),
        )
    title = (
        f"Round-robin: {report.requests} requests over {len(report.models)} models, "
        f"{report.clients} clients, {report.elapsed_s:.1f} s, {report.error_count} errors"
    )
    return Section(title, table, "\n".join(report.errors))


def _multiples(spread: Spread | None) -> tuple[str, str]:
    return ("-", "-") if spread is None else (f"{spread.p50:.2f}", f"{spread.p95:.2f}")


def _memory(report: RoundsReport) -> Section:
    table = table_of("server", "capacity", "charged", "within", "models hold", "with server")
    for server in report.servers:
        table.add_row(
            server.server,
            format_bytes(server.capacity),
            format_bytes(server.occupied),
            "yes" if server.within_capacity else "NO",
            "-" if server.models is None else format_bytes(server.models),
            "-" if server.whole is None else format_bytes(server.whole),
        )
    return Section(f"Memory: the most in {report.memory_samples} samples", table)


def _warm_pairs(pairs: Sequence[WarmPairs]) -> Section:
    table = table_of("model", "pairs", "p50 ms", "ratio", "p95 ms")
    for found in pairs:
        table.add_row(
            found.model,
            str(found.gateway.count),
            _pair(found.direct.p50, found.gateway.p50),
            f"{found.ratio.median:.2f}",
            _pair(found.direct.p95, found.gateway.p95),
        )
    note = "The ratio is the median of the ratios of requests in a row."
    return Section("Warm requests one at a time: directly / through the gateway", table, note)


def _pair(one_s: float, other_s: float) -> str:
    return f"{milliseconds(one_s)} / {milliseconds(other_s)}"


def milliseconds(seconds: float) -> str:
    """A time as people read it."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"
