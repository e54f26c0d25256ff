"""How a build looks on a terminal: progress while it runs, a table when it is done."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from repo_builder.results import BuildReport, BuildResult
from tritonfleet.units import format_bytes

_COLOURS = {"built": "green", "unchanged": "dim", "failed": "red", "stale": "yellow"}
_HEADINGS = ("model", "status", "version", "size", "parity", "measured", "seconds")
# Of a table that goes into a file or a log.
_WIDTH = 140


class Progress:
    """Follows a build: a line for each model that is done, a spinner for those at work."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._status: Status = self._console.status("looking for changes")
        self._phases: dict[str, str] = {}

    def __enter__(self) -> Progress:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def phase(self, model: str, phase: str) -> None:
        """Shows what a model is at."""
        self._phases[model] = phase
        self._refresh()

    def finished(self, result: BuildResult) -> None:
        """Shows what became of a model, unless nothing did."""
        self._phases.pop(result.model, None)
        if result.status == "built":
            self._console.print(f"[green]built[/] {result.model} in {result.total_s:.1f} s")
        elif result.status == "failed":
            self._console.print(f"[red]failed[/] {result.model}")
        self._refresh()

    def _refresh(self) -> None:
        at_work = ", ".join(f"{model}: {phase}" for model, phase in self._phases.items())
        self._status.update(at_work or "looking for changes")


def print_report(report: BuildReport, seconds: float) -> None:
    """The table of all models, then what needs attention."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = _WIDTH
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in _HEADINGS:
        right = heading in ("version", "size", "seconds")
        table.add_column(heading, justify="right" if right else "left")
    for result in report.results:
        table.add_row(result.model, _status(result.status), *_cells(result))
    for model in report.stale:
        table.add_row(model, _status("stale"))
    console.print(table)
    _print_remarks(report, seconds)


def _status(word: str) -> Text:
    return Text(word, style=_COLOURS[word])


def _cells(result: BuildResult) -> Sequence[str]:
    parity = result.parity
    measured = [f"{name} {value:.3f}" for name, value in result.metrics.items()]
    if result.random_weights:
        measured.append("random weights: predicts nothing")
    return (
        "" if result.version is None else str(result.version),
        format_bytes(result.artifact_bytes) if result.artifact_bytes else "",
        f"{parity.worst:.1e} of {parity.tolerance:.0e}" if parity else "",
        ", ".join(measured),
        f"{result.total_s:.1f}" if result.seconds else "",
    )


def _print_remarks(report: BuildReport, seconds: float) -> None:
    for result in report.failed:
        click.secho(f"\nerror: {result.error}", fg="red", err=True)
    if report.stale:
        click.echo("\nStale models have left the fleet file; --prune removes them.")
    for model in report.pruned:
        click.echo(f"removed {model}")
    statuses = [result.status for result in report.results]
    counts = {status: statuses.count(status) for status in ("built", "unchanged", "failed")}
    summary = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    click.echo(f"\n{summary} in {seconds:.1f} s")
