"""``tritonfleet doctor``: what a fleet would meet on this machine, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tritonfleet.doctor.checks import CHECKS
from tritonfleet.doctor.examination import Examination
from tritonfleet.doctor.findings import Report, healthy
from tritonfleet.doctor.machine import Machine
from tritonfleet.doctor.needs import Needs, bare_machine, needs_of
from tritonfleet.options import settings_options
from tritonfleet.settings import DEFAULT_FLEET_FILE, Settings, resolve_settings
from tritonfleet.spec import load_fleet

_COLOURS = {"ok": "green", "warning": "yellow", "failed": "bold red", "not needed": "dim"}


@click.command()
@click.option("--fleet", "-f", "fleet_file", envvar="TRITONFLEET_FLEET", show_envvar=True,
              type=click.Path(path_type=Path),
              help=f"The fleet file; {DEFAULT_FLEET_FILE} if there is one.")  # fmt: skip
@settings_options
@click.option("--only", multiple=True, type=click.Choice(tuple(CHECKS)), metavar="NAME",
              help=f"This check alone; may be repeated. One of: {', '.join(CHECKS)}.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def doctor(
    fleet_file: Path | None,
    only: tuple[str, ...],
    as_json: bool,
    **flags: Any,
) -> None:
    """Check whether 'tritonfleet serve' with the same options can run on this machine.

    Nothing is started and nothing is changed. The exit status is 1 if anything failed.
    """
    reports = _examined(_needs(fleet_file, flags), only or tuple(CHECKS))
    if as_json:
        findings = [finding for report in reports for finding in report.as_json()]
        document = {"healthy": healthy(reports), "findings": findings}
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    else:
        _print(reports)
    click.get_current_context().exit(0 if healthy(reports) else 1)


def _needs(fleet_file: Path | None, flags: dict[str, Any]) -> Needs:
    if fleet_file is None and not DEFAULT_FLEET_FILE.exists():
        return bare_machine(resolve_settings(Settings(), flags))
    file = fleet_file or DEFAULT_FLEET_FILE
    spec = load_fleet(file)
    return needs_of(spec, resolve_settings(spec.settings, flags), file.resolve().parent)


def _examined(needs: Needs, names: Iterable[str]) -> list[Report]:
    console = Console(stderr=True)
    examination = Examination(needs, Machine())
    with console.status("looking …") as status:
        told = examination.reports(names, lambda name: status.update(f"looking at {name} …"))
        return list(told)


def _print(reports: Iterable[Report]) -> None:
    reports = list(reports)
    console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
    table = Table("check", "", "found", title_justify="left")
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    table.columns[2].overflow = "fold"
    for report in reports:
        for place, finding in enumerate(report.findings):
            colour = _COLOURS[finding.status]
            table.add_row(
                "" if place else report.check,
                f"[{colour}]{finding.status}[/]",
                escape(finding.found),
            )
    console.print(table)
    _print_advice(console, reports)


def _print_advice(console: Console, reports: Iterable[Report]) -> None:
    """Outside the table, so that commands can be copied in one piece."""
    for report in reports:
        for finding in report.findings:
            if finding.advice:
                colour = _COLOURS[finding.status]
                console.print(f"\n[{colour}]{report.check}[/]: ", end="")
                console.print(finding.found, markup=False, soft_wrap=True)
                for step in finding.advice:
                    console.print(f"  {step}", markup=False, soft_wrap=True)
