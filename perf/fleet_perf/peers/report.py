"""A comparison as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fleet_perf.peers.figures import (
    MB,
    Figure,
    SystemFigures,
    Verdict,
    best,
    cold_p50,
    cold_p95,
    over,
    resident_bytes,
    trace_s,
    warm_cpu,
)
from fleet_perf.peers.results import PeerResults
from fleet_perf.report import Section, document, milliseconds, table_of

_NONE = "-"
_WORTH_MENTIONING_MS = 0.01


def sections(results: PeerResults) -> list[Section]:
    """Every system in four tables, and what was promised of ours in a fifth."""
    found = list(results.systems.values())
    return [
        _cold(found),
        _trace(results, found),
        *(_warm(found, clients) for clients in (1, results.job.clients)),
        _memory(results, found),
        _verdicts(results.verdicts),
        _settings(found),
    ]


def markdown(results: PeerResults) -> str:
    """The tables as Markdown, with the environment and the job on top."""
    job, title = results.job, f"Peers{' (quick)' if results.quick else ''}"
    text = document(title, results.environment, sections(results), results.failed)
    lines = (
        f"{job.models} models of {job.network.weight_bytes / MB:.0f} MB, room for {job.room}, "
        f"one-row JSON requests, ONNX Runtime with one thread; all systems up at once on one "
        "machine, short bursts in random order. Ratios are to the best peer, that is the best "
        "system which is not ours."
    )
    head, _, rest = text.partition("\n## ")
    return f"{head}{lines}\n\n## {rest}"


def _ratio(systems: Sequence[SystemFigures], figure: Figure) -> Callable[[SystemFigures], str]:
    """A column: each system's figure over the best peer's."""
    peer = best([one for one in systems if not one.ours], figure)

    def column(system: SystemFigures) -> str:
        found = over(figure(system), peer[1] if peer else None)
        return _NONE if found is None else f"{found:.2f}"

    return column


def _cold(systems: Sequence[SystemFigures]) -> Section:
    table = table_of("system", "samples", "p50 ms", "ratio", "p95 ms", "ratio", "CPU ms per load")
    p50, p95 = _ratio(systems, cold_p50), _ratio(systems, cold_p95)
    for system in systems:
        if (cold := system.cold) is not None:
            table.add_row(
                system.name,
                str(cold.latency.count),
                milliseconds(cold.latency.p50),
                p50(system),
                milliseconds(cold.latency.p95),
                p95(system),
                f"{cold.cpu_ms_per_load:.1f}",
            )
    return Section("Cold starts, each evicting another model: one client", table)


def _trace(results: PeerResults, systems: Sequence[SystemFigures]) -> Section:
    table = table_of("system", "s", "ratio", "hit ratio", "errors")
    ratio = _ratio(systems, trace_s)
    for system in systems:
        if (trace := system.trace) is not None:
            table.add_row(
                system.name,
                f"{trace.elapsed_s:.2f}",
                ratio(system),
                f"{trace.hit_ratio:.2f}",
                str(len(trace.errors)),
            )
    title = (
        f"Whole trace: {len(results.trace)} requests, Zipf {results.job.zipf_exponent:g}, "
        f"{results.job.clients} clients"
    )
    note = (
        f"Hits are requests that caused no load; a plain LRU serving the trace one by one would "
        f"hit {results.lru_hit_ratio:.2f}."
    )
    return Section(title, table, note)


def _warm(systems: Sequence[SystemFigures], clients: int) -> Section:
    table = table_of("system", "CPU ms per request", "ratio", "p50 ms", "p95 ms", "idle cores")
    ratio = _ratio(systems, warm_cpu(clients))
    for system in systems:
        if (warm := system.warm.get(clients)) is not None:
            idle = _NONE if system.idle_cores is None else f"{system.idle_cores:.3f}"
            table.add_row(
                system.name,
                f"{warm.cpu_ms_per_request:.2f}",
                ratio(system),
                milliseconds(warm.latency.p50),
                milliseconds(warm.latency.p95),
                idle,
            )
    spent = ", ".join(
        f"{system.name}/{name} {cpu_ms:.2f}"
        for system in systems
        if system.ours and (warm := system.warm.get(clients))
        for name, cpu_ms in warm.cpu_ms_by_name.items()
        if cpu_ms >= _WORTH_MENTIONING_MS
    )
    note = "CPU of the whole process tree, what it does unasked (idle cores) included."
    if spent:
        note += f" Of ours, on average: {spent}."
    return Section(f"Warm requests: {clients} client{'s' if clients > 1 else ''}", table, note)


def _memory(results: PeerResults, systems: Sequence[SystemFigures]) -> Section:
    table = table_of(
        "system", "1 model MB", f"{results.job.room} models MB", "ratio", "at the end MB", "charged"
    )
    ratio = _ratio(systems, resident_bytes)
    for system in systems:
        if (memory := system.memory) is not None:
            table.add_row(
                system.name,
                _megabytes(memory.empty_bytes),
                _megabytes(memory.bytes),
                ratio(system),
                _megabytes(system.end_bytes),
                _megabytes(memory.footprint),
            )
    note = (
        "PSS of the whole process tree; the first two alone on the machine, the third with all "
        "systems up and after everything else. Charged: by our controller, for one model."
    )
    if results.tiny_bytes is not None:
        count = results.job.tiny_models
        note += f" {count} tiny models in memory: {_megabytes(results.tiny_bytes)} MB."
    return Section("Memory", table, note)


def _megabytes(size: float | None) -> str:
    return _NONE if size is None else f"{size / MB:.0f}"


def _verdicts(verdicts: Sequence[Verdict]) -> Section:
    table = table_of("promise", "against", "ratio", "bound", "holds")
    for verdict in verdicts:
        measured = verdict.ratio is not None
        table.add_row(
            verdict.what,
            verdict.against,
            f"{verdict.ratio:.2f}" if verdict.ratio is not None else _NONE,
            f"{verdict.bound:g}",
            ("yes" if verdict.holds else "NO") if measured else "not measured",
        )
    return Section("What is promised of the native backend", table)


def _settings(systems: Sequence[SystemFigures]) -> Section:
    table = table_of("system", "packages")
    for system in systems:
        named = [one for one in system.packages if one.startswith(("ray==", "litserve=="))]
        table.add_row(system.name, ", ".join(named) or "ours")
    note = "\n".join(f"- {system.name}: {system.settings}" for system in systems)
    return Section("Settings", table, note)
