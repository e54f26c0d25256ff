"""The reports in captured/ were written by perf_analyzer 2.50.0 against tritonserver 2.51."""

from __future__ import annotations

import itertools
import stat
from pathlib import Path

import psutil
import pytest

from fleet_perf import analyzer
from fleet_perf.analyzer import Files, Load, Measurement, arguments, parse
from fleet_perf.install import Program
from tritonfleet.errors import AnalyzerFailed, Unstable

CAPTURED = Path(__file__).parent / "captured"
DATA = {"data": [{"x": [1.0]}]}


def captured(name: str) -> str:
    return (CAPTURED / name).read_text(encoding="utf-8")


def imitation(folder: Path, printed: str, status: int, report: str | None = None) -> Program:
    """A program that prints, reports and exits as perf_analyzer once did."""
    (folder / "printed").write_text(captured(printed), encoding="utf-8")
    write = f'cp "{CAPTURED / report}" "$last"' if report else ":"
    script = folder / "perf_analyzer"
    script.write_text(
        f'#!/bin/sh\nfor last in "$@"; do :; done\n{write}\ncat "{folder}/printed"\nexit {status}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return Program(script)


def test_figures_are_read_from_a_captured_report():
    assert parse("m", captured("stable.txt"), captured("stable.csv")) == Measurement(
        requests=10272,
        throughput=22395.4,
        latency_avg_us=1424.0,
        latency_p50_us=1364.0,
        latency_p90_us=1638.0,
        latency_p95_us=1752.0,
        latency_p99_us=3828.0,
        server_queue_us=839.0,
        server_compute_us=34.0 + 224.0 + 59.0,
    )


def test_a_report_without_a_column_is_a_failure_that_names_it():
    report = captured("stable.csv").replace("p95 latency", "p96 latency")
    with pytest.raises(AnalyzerFailed, match="p95 latency"):
        parse("m", captured("stable.txt"), report)


def test_an_empty_report_is_a_failure():
    with pytest.raises(AnalyzerFailed, match="exactly one row"):
        parse("m", captured("stable.txt"), "")


def test_output_without_a_count_of_requests_is_a_failure():
    with pytest.raises(AnalyzerFailed, match="Request count"):
        parse("m", "nothing", captured("stable.csv"))


async def test_a_run_gives_the_measurement(tmp_path):
    program = imitation(tmp_path, "stable.txt", 0, "stable.csv")
    found = await analyzer.run(program, Load("m", 8, batch_size=4), "127.0.0.1:1", DATA)
    assert found.requests == 10272


async def test_windows_that_never_settle_are_unstable(tmp_path):
    program = imitation(tmp_path, "unstable.txt", 2)
    with pytest.raises(Unstable, match=r"m at 127\.0\.0\.1:1, http, concurrency 4"):
        await analyzer.run(program, Load("m", 4), "127.0.0.1:1", DATA)


async def test_a_tool_that_never_gets_done_is_ended_and_unstable(tmp_path, monkeypatch):
    program = imitation(tmp_path, "stable.txt", 0)
    ended = tmp_path / "ended"
    program.path.write_text(f'#!/bin/sh\necho $$ > "{ended}"\nexec sleep 600\n')
    monkeypatch.setattr(analyzer, "_SPARE_S", 0)
    with pytest.raises(Unstable, match="not done after 3 s"):
        await analyzer.run(program, Load("m", 4, window_ms=100), "127.0.0.1:1", DATA)
    assert not psutil.pid_exists(int(ended.read_text()))


@pytest.mark.parametrize(
    ("printed", "reason"),
    [
        ("unknown_model.txt", "Request for unknown model: 'nope' is not found"),
        ("refused.txt", "inference request batch-size must be <= 8 for 'tiny'"),
    ],
)
async def test_what_triton_said_is_in_the_error(tmp_path, printed, reason):
    program = imitation(tmp_path, printed, 99)
    with pytest.raises(AnalyzerFailed, match=reason):
        await analyzer.run(program, Load("m", 1), "127.0.0.1:1", DATA)


def test_a_load_becomes_the_options_of_the_tool(tmp_path):
    load = Load("m", 8, batch_size=4, window_ms=500, stability_percentage=12.5, windows=7)
    found = arguments(load, "127.0.0.1:8000", Files.under(tmp_path, DATA))
    options = dict(itertools.pairwise(found))
    assert options["-m"] == "m"
    assert options["-u"] == "127.0.0.1:8000"
    assert options["-b"] == "4"
    assert options["--concurrency-range"] == "8"
    assert options["--measurement-interval"] == "500"
    assert options["--stability-percentage"] == "12.5"
    assert options["--max-trials"] == "7"
    assert Path(options["--input-data"]).read_text() == '{"data": [{"x": [1.0]}]}'
