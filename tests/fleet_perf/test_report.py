from __future__ import annotations

import io
import json

from rich.console import Console

from fleet_perf.compare import Ratio, Spread, compare_cold, compare_warm
from fleet_perf.occupancy import ServerOccupancy
from fleet_perf.promises import KindFigures, RoundsReport, WarmPairs
from fleet_perf.report import WIDTH, markdown, sections, show, write
from fleet_perf.results import Results
from tests.fleet_perf.builders import measurement
from tritonfleet.errors import Unstable

ENVIRONMENT = {
    "taken_at": "2026-01-02T03:04:05+00:00",
    "cpu": "a processor",
    "usable_cores": 2,
    "load_average": [0.1, 0.2, 0.3],
    "commit": None,
}


def rounds(occupied: int = 80) -> RoundsReport:
    cold = compare_cold("m", [1.2, 1.3], [1.0, 1.1])
    return RoundsReport(
        requests=200,
        clients=8,
        models=("m",),
        elapsed_s=12.5,
        errors=(),
        error_count=0,
        kinds={"warm": KindFigures(Spread(3, 0.001, 0.002), None)},
        servers=(ServerOccupancy("gpu0", 100, occupied, None, 2**20),),
        memory_samples=7,
        cold=(cold,),
        cold_all=cold,
        warm=(WarmPairs("m", Spread(3, 0.002, 0.003), Spread(3, 0.001, 0.002), Ratio(2, 2, 2)),),
    )


def results(**more) -> Results:
    direct, gateway = [measurement(1000, 2000, 4000)], [measurement(500, 3000, 8000)]
    return Results(
        "first",
        ENVIRONMENT,
        warm=[compare_warm("digits", 8, 4, direct, gateway)],
        cold=[compare_cold("cancer", [0.3] * 4, [0.25] * 4)],
        **more,
    )


def test_the_markdown_holds_figures_and_ratios():
    text = markdown(results())
    row = next(line for line in text.splitlines() if "digits" in line)
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells == [
        "digits", "8 × 4 rows", "1000 / 500", "0.50", "2.00 / 3.00", "1.50", "4.00 / 8.00", "2.00",
    ]  # fmt: skip
    assert "250 / 300" in next(line for line in text.splitlines() if "cancer" in line)
    assert "a processor, 2 cores, load average 0.10, 0.20, 0.30, commit unknown" in text


def test_a_round_robin_has_its_tables():
    titles = [section.title.split(":")[0] for section in sections(results(rounds=rounds()))]
    assert titles[2:] == [
        "Round-robin",
        "Memory",
        "Cold starts one at a time",
        "Warm requests one at a time",
    ]


def test_what_could_not_be_measured_is_in_the_markdown():
    failed = [Unstable("m", "it was noisy")]
    assert "it was noisy" in markdown(results(failed=failed))


def test_everything_is_good_or_the_results_are_not():
    assert results(rounds=rounds()).good
    assert not results(rounds=rounds(occupied=101)).good
    assert not results(failed=[Unstable("m", "noise")]).good


def test_files_hold_the_same_results(tmp_path):
    found = results(rounds=rounds(), failed=[Unstable("m", "noise")])
    write(found, tmp_path / "new" / "folder")
    data = json.loads((tmp_path / "new" / "folder" / "results.json").read_text())
    assert data["warm"][0]["throughput"]["median"] == 0.5
    assert data["warm"][0]["gateway"][0]["latency_p95_us"] == 8000
    assert data["cold"][0]["ratio_p50"] == 1.2
    assert data["rounds"]["servers"][0]["occupied"] == 80
    assert data["rounds"]["kept"] is True
    assert (data["good"], len(data["failed"])) == (False, 1)
    assert (tmp_path / "new" / "folder" / "results.md").read_text() == markdown(found)


def test_tables_are_not_cut_where_there_is_no_terminal():
    output = io.StringIO()
    console = Console(file=output, width=WIDTH)
    for section in sections(results(rounds=rounds())):
        show(section, console)
    assert "…" not in output.getvalue()
