"""Values for the tests of the gateway's bench, with everything irrelevant filled in."""

from __future__ import annotations

from dataclasses import replace

import numpy

from fleet_perf.compare import compare_cold
from fleet_perf.gateway.cells import Cell, CellName, Run
from fleet_perf.gateway.churn import ChurnFindings, ChurnRun, MemorySample, WireFigures
from fleet_perf.gateway.cold import ColdCell, ColdFindings
from fleet_perf.gateway.config_scale import ScaleCell, ScaleFindings, _targets
from fleet_perf.gateway.faults import FaultFigures, FaultFindings
from fleet_perf.gateway.replies import Latency, Replies
from fleet_perf.occupancy import ServerOccupancy
from tests.fleet_perf.builders import measurement

PROGRAMS = {"envoy": 60, "brain": 90, "tritonserver": 300}


def run(throughput=100.0, p50=1000.0, p99=2000.0, *, requests=10, cpu_us=50.0, python=0) -> Run:
    measured = replace(measurement(throughput, p50), latency_p99_us=p99)
    return Run(measured, requests, int(requests * cpu_us * 1e3), python)


def cell(direct, gateway, *, model="small", protocol="http", concurrency=8) -> Cell:
    return Cell(CellName(model, protocol, concurrency), list(direct), list(gateway))


def cold_cell(gateway_s=(0.011,), hand_s=(0.010,), *, crowd="25 MB", evicting=False) -> ColdCell:
    return ColdCell(crowd, "http", evicting, compare_cold(crowd, gateway_s, hand_s), 0.007)


def replies(*rows: tuple[float, float, str], cold: tuple[int, ...] = ()) -> Replies:
    """Of (when it ended, how long it took, error)."""
    errors = list(dict.fromkeys(["", *(error for *_, error in rows)]))
    return Replies(
        numpy.array([ended for ended, *_ in rows], float),
        numpy.array([took for _, took, _ in rows], numpy.float32),
        numpy.array([index in cold for index in range(len(rows))], bool),
        numpy.array([errors.index(error) for *_, error in rows], numpy.uint16),
        tuple(errors),
    )


def latency(p50=0.001, p99=0.01) -> Latency:
    return Latency(100, p50, p99, 2 * p99)


def churn_run(errors=None, *, occupied=90, capacity=100, held=80, pattern="zipf") -> ChurnRun:
    """``held`` is what tritonserver has grown by."""
    wire = WireFigures("http", 100, errors or {}, 50.0, latency(), None)
    grown = {**PROGRAMS, "tritonserver": 300 + held}
    return ChurnRun(
        pattern, 60.0, 8, (wire,), 12, 4, 30,
        (ServerOccupancy("host", capacity, occupied, None, None),),
        300, (MemorySample(0.0, PROGRAMS), MemorySample(1.0, grown)),
    )  # fmt: skip


def fault(victim="envoy", group="resident", wire="http", *, errors=None, gap_s=0.4) -> FaultFigures:
    end = 0.3 if errors else None
    return FaultFigures(
        victim, group, wire, 1000, errors or {}, 0.01, gap_s, end, latency(), latency(p99=0.02)
    )


def cold_findings(*cells: ColdCell) -> ColdFindings:
    return ColdFindings(list(cells))


def churn_findings(*runs: ChurnRun) -> ChurnFindings:
    return ChurnFindings(list(runs))


def fault_findings(*figures: FaultFigures) -> FaultFindings:
    return FaultFindings(list(figures))


def scale_findings(*sizes: int) -> ScaleFindings:
    cells = [
        ScaleCell(size, 0.1, 0.2, 60_000_000, [0.002] * 9, [0.004] * 9, 0, [0.5], [0.001])
        for size in sizes
    ]
    return ScaleFindings(cells, [target for cell in cells for target in _targets(cell)])
