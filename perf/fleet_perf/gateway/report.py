"""What was found of the gateway, as tables."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from rich.table import Table

from fleet_perf.gateway.cells import Cell
from fleet_perf.gateway.churn import ChurnFindings, ChurnRun
from fleet_perf.gateway.cold import ColdCell, ColdFindings
from fleet_perf.gateway.config_scale import ScaleCell, ScaleFindings, percentile
from fleet_perf.gateway.faults import FaultFigures, FaultFindings
from fleet_perf.gateway.replies import Latency
from fleet_perf.gateway.results import GatewayResults
from fleet_perf.gateway.stand import PROGRAMS
from fleet_perf.gateway.targets import Target
from fleet_perf.report import Section, document, milliseconds, table_of
from tritonfleet.units import format_bytes

_NONE = "-"
_MEMORY_ROWS = 10


def sections(results: GatewayResults) -> list[Section]:
    """The tables of the part that was measured, and what was promised of it."""
    found = results.findings
    if isinstance(found, ColdFindings):
        tables = [_cold(found.cells)]
    elif isinstance(found, ChurnFindings):
        tables = [table for run in found.runs for table in _churn(run)]
    elif isinstance(found, FaultFindings):
        tables = [_faults(found.figures)]
    elif isinstance(found, ScaleFindings):
        tables = [_scale(found.cells)]
    else:
        tables = [_warm(found.cells)]
    return [*tables, *_targets(found.targets)]


def markdown(results: GatewayResults) -> str:
    """The same tables as Markdown, with the environment on top."""
    title = f"Gateway: {results.part}{' (quick)' if results.quick else ''}"
    return document(title, results.environment, sections(results), results.findings.failed)


def _warm(cells: Sequence[Cell]) -> Section:
    table = table_of(
        "model", "protocol", "clients", "infer/s", "ratio", "+p50 ms", "+p99 ms", "CPU µs", "Python"
    )
    for cell in cells:
        rates = [
            statistics.median(run.measurement.throughput for run in side)
            for side in (cell.direct, cell.gateway)
        ]
        table.add_row(
            cell.name.model,
            cell.name.protocol,
            str(cell.name.concurrency),
            " / ".join(f"{rate:.0f}" for rate in rates),
            f"{cell.throughput.median:.2f}",
            f"{cell.added_p50_us / 1e3:+.2f}",
            f"{cell.added_p99_us / 1e3:+.2f}",
            f"{cell.cpu_us_per_request:.0f}",
            str(cell.python_requests),
        )
    note = (
        "Medians over pairs of runs in a row: gateway over direct, gateway less direct. CPU: of "
        "Envoy, for each request that Triton has counted. Python: requests that it has seen."
    )
    return Section("Warm models: directly / through the gateway", table, note)


def _cold(cells: Sequence[ColdCell]) -> Section:
    table = table_of(
        "models", "protocol", "room", "pairs", "p50 ms", "ratio", "held ms", "p95 ms", "ratio"
    )
    for cell in cells:
        found = cell.comparison
        table.add_row(
            cell.crowd,
            cell.wire,
            "by eviction" if cell.evicting else "free",
            str(found.gateway.count),
            f"{milliseconds(found.bare.p50)} / {milliseconds(found.gateway.p50)}",
            f"{found.ratio_p50:.2f}",
            milliseconds(cell.held_p50_s),
            f"{milliseconds(found.bare.p95)} / {milliseconds(found.gateway.p95)}",
            f"{found.ratio_p95:.2f}",
        )
    note = "Held: how long the gateway had the request until its model was there, p50."
    return Section("Cold starts: by hand / one request through the gateway", table, note)


def _churn(run: ChurnRun) -> list[Section]:
    return [_churned(run), _memory(run)]


def _churned(run: ChurnRun) -> Section:
    table = table_of("protocol", "requests", "per s", "errors", "answers", "p50 ms", "p99 ms")
    for wire in run.wires:
        for kind, latency in (("warm", wire.warm), ("cold", wire.cold)):
            head = ["", "", "", ""] if kind == "cold" else [
                wire.wire, str(wire.requests), f"{wire.per_s:.0f}", str(sum(wire.errors.values())),
            ]  # fmt: skip
            table.add_row(*head, *_answers(kind, latency))
    title = (
        f"Churn, {run.pattern}: {run.clients} clients of each protocol for {run.seconds:.0f} s, "
        f"{run.loads} loads, {run.unloads} unloads, {run.python_requests} requests seen by Python"
    )
    return Section(title, table, "\n".join(_error_lines(run)))


def _answers(kind: str, latency: Latency | None) -> tuple[str, str, str]:
    if latency is None:
        return f"0 {kind}", _NONE, _NONE
    return f"{latency.count} {kind}", milliseconds(latency.p50), milliseconds(latency.p99)


def _error_lines(run: ChurnRun) -> list[str]:
    return [
        f"{count} × {wire.wire}: {error}"
        for wire in run.wires
        for error, count in wire.errors.items()
    ]


def _memory(run: ChurnRun) -> Section:
    table = table_of("after s", *(f"{program} MB" for program in PROGRAMS))
    step = -(-len(run.memory) // _MEMORY_ROWS) or 1
    for sample in run.memory[::step]:
        sizes = (f"{sample.bytes.get(program, 0) / 1e6:.0f}" for program in PROGRAMS)
        table.add_row(f"{sample.at_s:.0f}", *sizes)
    charged = "; ".join(
        f"{server.server}: charged at most {format_bytes(server.occupied)} of "
        f"{format_bytes(server.capacity)}"
        for server in run.servers
    )
    note = f"{charged}; tritonserver grew by at most {format_bytes(run.held_bytes)}"
    return Section(f"Memory (RSS), {run.pattern}", table, note)


def _faults(figures: Sequence[FaultFigures]) -> Section:
    table = table_of(
        "killed", "models", "protocol", "requests", "failed", "silent s", "usual s",
        "errors s", "p99 ms",
    )  # fmt: skip
    errors: Counter[tuple[str, str]] = Counter()
    for (victim, group, wire), several in _by_kind(figures):
        table.add_row(
            victim,
            group,
            wire,
            str(sum(one.requests for one in several)),
            str(sum(one.failed for one in several)),
            _times([one.gap_s for one in several]),
            f"{max(one.gap_before_s for one in several):.2f}",
            _longest([one.errors_end_after_s for one in several]),
            f"{_p99([one.before for one in several])} / {_p99([one.after for one in several])}",
        )
        for one in several:
            errors.update({(victim, f"{wire}: {text}"): n for text, n in one.errors.items()})
    lines = [
        f"{victim} killed: {count} × {text}" for (victim, text), count in sorted(errors.items())
    ]
    note = (
        "Silent: the longest time without any answer after the kill, the median of the kills (and "
        "the worst); usual: the worst before the kill; errors: until the last one came. p99: "
        "before / after the kill."
    )
    return Section("Processes killed under load", table, "\n".join([note, *lines]))


def _scale(cells: Sequence[ScaleCell]) -> Section:
    table = table_of(
        "models", "start s", "memory MB", "open ms", "close ms", "late", "plan s", "in flight ms"
    )
    for cell in cells:
        table.add_row(
            str(cell.models),
            f"{cell.first_plan_s:.2f} + {cell.start_s:.2f}",
            f"{cell.memory_bytes / 1e6:.0f}",
            _p50_and_p95(cell.opened_s),
            _p50_and_p95(cell.closed_s),
            str(cell.late),
            f"{statistics.median(cell.planned_s):.2f}",
            milliseconds(statistics.median(cell.in_flight_s)),
        )
    note = (
        "Start: the first plan written and proved, and Envoy. Open: from a model's arrival to the "
        "first request that goes straight to it; close: a withdrawal (p50 / p95). Late: requests "
        "that went straight there after it. Plan: from a change of one model's limits to the first "
        "request that shows it."
    )
    return Section("Changes of the configuration, by the size of the fleet", table, note)


def _p50_and_p95(seconds: list[float]) -> str:
    return " / ".join(milliseconds(percentile(seconds, percent)) for percent in (50, 95))


def _by_kind(
    figures: Sequence[FaultFigures],
) -> list[tuple[tuple[str, str, str], list[FaultFigures]]]:
    def kind(one: FaultFigures) -> tuple[str, str, str]:
        return one.victim, one.group, one.wire

    # Sorting is stable, and the order of the victims is that in which they were killed first.
    order = {kind(one): index for index, one in reversed(list(enumerate(figures)))}
    ordered = sorted(figures, key=lambda one: order[kind(one)])
    return [(key, list(several)) for key, several in groupby(ordered, key=kind)]


def _times(seconds: Sequence[float]) -> str:
    """The median, and the largest."""
    return f"{statistics.median(seconds):.2f} ({max(seconds):.2f})" if seconds else _NONE


def _longest(seconds: Sequence[float | None]) -> str:
    found = [each for each in seconds if each is not None]
    return f"{max(found):.2f}" if found else _NONE


def _p99(latencies: Sequence[Latency | None]) -> str:
    found = [latency.p99 for latency in latencies if latency is not None]
    return milliseconds(statistics.median(found)) if found else _NONE


def _targets(targets: Sequence[Target]) -> list[Section]:
    """Those that were missed first."""
    if not targets:
        return []
    table: Table = table_of("target", "found", "bound", "kept")
    for target in sorted(targets, key=lambda one: one.kept):
        bound = f"{'≥' if target.at_least else '≤'} {target.bound:g}"
        table.add_row(target.what, f"{target.found:.4g}", bound, "yes" if target.kept else "NO")
    kept = sum(target.kept for target in targets)
    return [Section("Targets", table, f"{kept} of {len(targets)} kept")]
