"""How a build looks on a terminal: progress while it runs, a table when it is done."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from repo_builder.reports.rows import parity_text
from repo_builder.results import BuildReport, BuildResult, BuildStatus
from tritonfleet.units import format_bytes

_COLOURS = {
    "built": "green", "unchanged": "dim", "rejected": "yellow", "failed": "red", "stale": "yellow",
}  # fmt: skip
_HEADINGS = (
    "model", "status", "version", "variant", "size", "memory", "parity", "measured", "seconds",
)  # fmt: skip
_RIGHT = ("version", "size", "memory", "seconds")
# Of a table that goes into a file or a log.
_WIDTH = 140


class Progress:
    """Follows a build: a line for each model that is done, a spinner for those at work."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status = self._console.status("looking for changes")
        self._phases: dict[str, str] = {}
        self._models, self._done = 0, 0

    def __enter__(self) -> Progress:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def begin(self, models: int) -> None:
        """Notes how many there are."""
        self._models, self._done = models, 0
        self._refresh()

    def phase(self, model: str, phase: str) -> None:
        """Shows what a model is at."""
        self._phases[model] = phase
        self._refresh()

    def finished(self, result: BuildResult) -> None:
        """Shows what became of a model, unless nothing did."""
        self._phases.pop(result.model, None)
        self._done += 1
        if result.status == "built":
            self._console.print(f"[green]built[/] {result.model} in {result.total_s:.1f} s")
        elif result.status == "failed":
            self._console.print(f"[red]failed[/] {result.model}")
        self._refresh()

    def _refresh(self) -> None:
        at_work = ", ".join(f"{model}: {phase}" for model, phase in self._phases.items())
        done = f"{self._done} of {self._models} done" if self._models else ""
        self._status.update("; ".join(filter(None, (done, at_work or "looking for changes"))))


def print_report(report: BuildReport, seconds: float) -> None:
    """The table of all models, then what needs attention."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        table.add_column(heading, justify="right" if heading in _RIGHT else "left")
    for result in report.results:
        table.add_row(result.model, _status(result.status), *_cells(result))
    for model in report.stale:
        table.add_row(model, _status("stale"))
    console.print(table)
    _print_remarks(report, seconds)


def _status(word: str) -> Text:
    return Text(word, style=_COLOURS[word])


def _cells(result: BuildResult) -> Sequence[str]:
    measured = [f"{name} {value:.3f}" for name, value in result.metrics.items()]
    if result.speed_up is not None:
        measured.append(f"{result.speed_up:.1f}x as quick")
    if result.random_weights:
        measured.append("random weights")
    return (
        "" if result.version is None else str(result.version),
        result.variant,
        format_bytes(result.artifact_bytes) if result.artifact_bytes else "",
        format_bytes(result.footprint.peak_bytes) if result.footprint else "",
        parity_text(result.parity),
        ", ".join(measured),
        f"{result.total_s:.1f}" if result.seconds else "",
    )


def _print_warnings(result: BuildResult) -> None:
    published = f"Published is '{result.variant}'."
    for warning in (*result.warnings, *(f"{reason} {published}" for reason in result.refused)):
        click.secho(f"\nwarning: {warning}", fg="yellow", err=True)


def _print_remarks(report: BuildReport, seconds: float) -> None:
    for result in report.results:
        if result.status == "built":
            _print_warnings(result)
    for result in report.failed:
        click.secho(f"\nerror: {result.error}", fg="red", err=True)
    unproven = [r.model for r in report.results if r.status == "built" and not r.proven]
    if unproven:
        click.secho(f"\nno server has loaded: {', '.join(unproven)}", fg="yellow", err=True)
    if any(result.status == "rejected" for result in report.results):
        click.echo("\nRejected models stay as rolled back; a change or --force builds them again.")
    if report.stale:
        click.echo("\nStale models have left the fleet file; --prune removes them.")
    for model in report.pruned:
        click.echo(f"removed {model}")
    statuses = [result.status for result in report.results]
    counts = {status: statuses.count(status) for status in get_args(BuildStatus)}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    click.echo(f"\n{summary} in {seconds:.1f} s")
