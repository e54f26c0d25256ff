"""Runs perf_analyzer once and reads what it reports.

Knows its options, its exit statuses and its files; not what is compared with what. Its own word
is not enough: it may count an error answer as a success, so whoever calls it also checks the
server's counters.
"""

from __future__ import annotations

import asyncio
import csv
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fleet_perf.install import Program
from tritonfleet.errors import AnalyzerFailed, Unstable

_STATUS_UNSTABLE = 2  # measured: no file is written then
_UNSTABLE = "Failed to obtain stable measurement"
_REQUESTS = re.compile(r"^\s*Request count:\s*(\d+)\s*$", re.MULTILINE)
_TAIL_LINES = 15
_SPARE_S = 60.0

Protocol = Literal["http", "grpc"]


@dataclass(frozen=True, slots=True)
class Load:
    """How a model is asked: by how many clients at once, with how many rows a request."""

    model: str
    concurrency: int
    batch_size: int = 1
    window_ms: int = 1000
    stability_percentage: float = 30.0
    """How far the last three windows may differ in throughput and latency."""
    windows: int = 10
    """Windows it may take until they do not."""
    protocol: Protocol = "http"

    @property
    def limit_s(self) -> float:
        """How long a run may take, the tool's own computing included."""
        return _SPARE_S + 3 * self.windows * self.window_ms / 1000


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run has measured; times are microseconds, as the tool gives them."""

    requests: int
    """Answers inside the windows that count; before and between them there were more."""
    throughput: float
    """Inferences per second."""
    latency_avg_us: float
    latency_p50_us: float
    latency_p90_us: float
    latency_p95_us: float
    latency_p99_us: float
    server_queue_us: float
    server_compute_us: float
    """Input, inference and output together."""


@dataclass(frozen=True, slots=True)
class Files:
    """What the tool reads and writes."""

    input_data: Path
    report: Path

    @classmethod
    def under(cls, folder: Path, data: Mapping[str, Any]) -> Files:
        """Files in a folder, the input written."""
        files = cls(folder / "input.json", folder / "report.csv")
        files.input_data.write_text(json.dumps(data), encoding="utf-8")
        return files

    def read_report(self) -> str:
        """The CSV the tool has left; empty when it has left none."""
        return self.report.read_text(encoding="utf-8") if self.report.exists() else ""


async def run(program: Program, load: Load, address: str, data: Mapping[str, Any]) -> Measurement:
    """One run against ``address`` (host:port), with ``data`` in the tool's own format.

    Raises AnalyzerFailed with the end of its output, Unstable when it gave up on the windows, or
    had not done with them in three times the time they should take: it goes on asking while it
    computes what it has seen, takes the square of that for it, and with more than some 15,000
    answers a second never catches up (2.50, measured). Shorter windows help.
    """
    name = f"{load.model} at {address}, {load.protocol}, concurrency {load.concurrency}"
    with tempfile.TemporaryDirectory(prefix="tritonfleet-perf-") as scratch:
        files = Files.under(Path(scratch), data)
        try:
            command = arguments(load, address, files)
            status, output = await asyncio.wait_for(_execute(program, command), load.limit_s)
        except asyncio.TimeoutError as error:
            raise Unstable(name, f"it was not done after {load.limit_s:g} s") from error
        _check_status(name, status, output)
        return parse(name, output, files.read_report())


def arguments(load: Load, address: str, files: Files) -> list[str]:
    """The command line, without the program."""
    return [
        "-m", load.model,
        "-u", address,
        "-i", load.protocol,
        "-b", str(load.batch_size),
        "--concurrency-range", str(load.concurrency),
        "--measurement-interval", str(load.window_ms),
        "--stability-percentage", f"{load.stability_percentage:g}",
        "--max-trials", str(load.windows),
        "--input-data", str(files.input_data),
        "--verbose-csv",
        "-f", str(files.report),
    ]  # fmt: skip


async def _execute(program: Program, command: Sequence[str]) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        str(program.path),
        *command,
        env=program.environment(),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:  # we are being cancelled
            process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace")


def _check_status(name: str, status: int, output: str) -> None:
    if status == _STATUS_UNSTABLE and _UNSTABLE in output:
        raise Unstable(name, "throughput and latency did not settle in the windows it was given")
    if status != 0:
        raise AnalyzerFailed(name, status, _tail(output))


def parse(name: str, output: str, report: str) -> Measurement:
    """The measurement in what the tool printed and in its CSV report.

    Raises AnalyzerFailed when one of the figures is not there.
    """
    rows = list(csv.DictReader(report.splitlines()))
    requests = _REQUESTS.search(output)
    try:
        if requests is None or len(rows) != 1:
            raise KeyError("Request count" if requests is None else "exactly one row")
        return _measurement(int(requests[1]), rows[0])
    except (KeyError, ValueError, TypeError) as error:
        cause = f"its report lacks {error}; the last lines:\n{_tail(output)}"
        raise AnalyzerFailed(name, 0, cause) from error


def _measurement(requests: int, row: Mapping[str, str]) -> Measurement:
    compute = ("Server Compute Input", "Server Compute Infer", "Server Compute Output")
    return Measurement(
        requests=requests,
        throughput=float(row["Inferences/Second"]),
        latency_avg_us=float(row["Avg latency"]),
        latency_p50_us=float(row["p50 latency"]),
        latency_p90_us=float(row["p90 latency"]),
        latency_p95_us=float(row["p95 latency"]),
        latency_p99_us=float(row["p99 latency"]),
        server_queue_us=float(row["Server Queue"]),
        server_compute_us=sum(float(row[column]) for column in compute),
    )


def _tail(output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-_TAIL_LINES:])
