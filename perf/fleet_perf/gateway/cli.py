"""``tritonfleet bench-gateway``: which part of the gateway is measured, and how long."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from fleet_perf import environment, install
from fleet_perf.cli import EXIT_FAILED, EXIT_GOOD, RESULTS, ended_like_interrupted, sayer
from fleet_perf.gateway.churn import ChurnEffort, measure_churn
from fleet_perf.gateway.cold import ColdEffort, measure_cold
from fleet_perf.gateway.config_scale import ScaleEffort, measure_config_scale
from fleet_perf.gateway.faults import VICTIMS, FaultsEffort, measure_faults
from fleet_perf.gateway.load import Pattern
from fleet_perf.gateway.models import SHAPES
from fleet_perf.gateway.report import markdown, sections
from fleet_perf.gateway.results import Findings, GatewayResults
from fleet_perf.gateway.warm import WarmEffort, measure_warm
from fleet_perf.peers.run import scratch
from fleet_perf.report import WIDTH, show, write_files
from fleet_perf.warm import Say
from tritonfleet.settings import Settings, resolve_settings

CACHE = "gateway-bench"
"""Below the state directory."""

Measure = Callable[[Path, Say], Awaitable[Findings]]
_Command = TypeVar("_Command", bound=Callable[..., Any])


def _common(command: _Command) -> _Command:
    """The options that every part has."""
    for option in (
        click.option("--output", type=click.Path(path_type=Path), metavar="DIR",
                     help=f"Where the results go; {RESULTS}/gateway-<part>-<time> by default."),
        click.option("--quick", is_flag=True, help="Figures to look at, not to keep."),
        click.option("--json", "as_json", is_flag=True, help="Print the results as JSON."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group("bench-gateway")
def bench_gateway() -> None:
    """Measure what the gateway costs, and what clients see of it. Starts fleets of its own.

    Exits with 1 when something could not be measured or a target was missed.
    """


@bench_gateway.command()
@click.option("--model", "names", multiple=True, type=click.Choice([s.name for s in SHAPES]),
              help="Only this one; may be given several times.")  # fmt: skip
@click.option("--pairs", type=click.IntRange(min=1), help="Of runs, for each cell.")
@_common
def warm(
    names: tuple[str, ...], pairs: int | None, output: Path | None, quick: bool, as_json: bool
) -> int:
    """Models in memory, through the gateway and directly, HTTP and gRPC: about 25 minutes."""
    effort = WarmEffort.quick() if quick else WarmEffort()
    effort = replace(effort, models=names or effort.models, pairs=pairs or effort.pairs)

    async def measure(folder: Path, say: Say) -> Findings:
        program = await asyncio.to_thread(install.find_or_install, _state_dir(), say)
        return await measure_warm(program, effort, folder, say)

    return _part("warm", measure, output, quick, as_json)


@bench_gateway.command()
@click.option("--pairs", type=click.IntRange(min=1), help="Of cold starts, for each kind.")
@_common
def cold(pairs: int | None, output: Path | None, quick: bool, as_json: bool) -> int:
    """Models that are not in memory, against a load and a request by hand: some minutes."""
    effort = ColdEffort.quick() if quick else ColdEffort()
    effort = replace(effort, pairs=pairs or effort.pairs)
    return _part(
        "cold", lambda folder, say: measure_cold(effort, folder, say), output, quick, as_json
    )


@bench_gateway.command()
@click.option("--seconds", type=click.FloatRange(min=1), help="Of each pattern.")
@click.option("--clients", type=click.IntRange(min=1), help="Of each protocol.")
@click.option("--pattern", "patterns", multiple=True, type=click.Choice(["zipf", "round-robin"]),
              help="Only this one.")  # fmt: skip
@_common
def churn(
    seconds: float | None,
    clients: int | None,
    patterns: tuple[Pattern, ...],
    output: Path | None,
    quick: bool,
    as_json: bool,
) -> int:
    """Clients that never pause, over three times as many models as fit."""
    effort = ChurnEffort.quick() if quick else ChurnEffort()
    effort = replace(
        effort,
        seconds=seconds or effort.seconds,
        clients=clients or effort.clients,
        patterns=patterns or effort.patterns,
    )
    return _part(
        "churn", lambda folder, say: measure_churn(effort, folder, say), output, quick, as_json
    )


@bench_gateway.command()
@click.option("--victim", "victims", multiple=True, type=click.Choice(VICTIMS),
              help="Kill only this one.")  # fmt: skip
@click.option("--repeats", type=click.IntRange(min=1), help="Of each kill.")
@_common
def faults(
    victims: tuple[str, ...], repeats: int | None, output: Path | None, quick: bool, as_json: bool
) -> int:
    """Envoy, the brain and tritonserver killed while clients ask, with SIGKILL."""
    effort = FaultsEffort.quick() if quick else FaultsEffort()
    effort = replace(effort, victims=victims or effort.victims, repeats=repeats or effort.repeats)
    return _part(
        "faults", lambda folder, say: measure_faults(effort, folder, say), output, quick, as_json
    )


@bench_gateway.command()
@click.option("--models", "sizes", multiple=True, type=click.IntRange(min=2),
              help="Of the fleet; may be given several times.")  # fmt: skip
@_common
def config_scale(sizes: tuple[int, ...], output: Path | None, quick: bool, as_json: bool) -> int:
    """How long a change takes to be in force, in small fleets and in large ones."""
    effort = ScaleEffort.quick() if quick else ScaleEffort()
    effort = replace(effort, sizes=sizes or effort.sizes)
    return _part(
        "config-scale",
        lambda folder, say: measure_config_scale(effort, folder, say),
        output,
        quick,
        as_json,
    )


def _part(part: str, measure: Measure, output: Path | None, quick: bool, as_json: bool) -> int:
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    results = _run(progress, lambda say: _measured(part, measure, quick, progress, say))
    folder = output or RESULTS / f"gateway-{part}-{datetime.now():%Y%m%d-%H%M%S}"
    write_files(folder, results.as_json(), markdown(results))
    _show(results, as_json)
    for error in results.findings.failed:
        progress.print(f"not measured: {error}", style="red", markup=False)
    progress.print(f"results: {folder}", markup=False)
    return EXIT_GOOD if results.good else EXIT_FAILED


async def _measured(
    part: str, measure: Measure, quick: bool, progress: Console, say: Say
) -> GatewayResults:
    describing = environment.describe()  # before our own load shows in its load average
    busy = environment.busy(describing)
    if busy:
        progress.print(f"warning: {busy}", style="yellow", markup=False)
    with scratch(_state_dir() / CACHE) as folder:
        return GatewayResults(part, describing, await measure(folder, say), quick)


def _run(
    progress: Console, work: Callable[[Say], Coroutine[Any, Any, GatewayResults]]
) -> GatewayResults:
    with progress.status("starting …") as status, ended_like_interrupted():
        return asyncio.run(work(sayer(progress, status.update)))


def _show(results: GatewayResults, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(results.as_json(), indent=2))
        return
    # Through a pipe rich would assume 80 columns and cut the figures.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for section in sections(results):
        show(section, console)


def _state_dir() -> Path:
    return resolve_settings(Settings()).state_dir.resolve()
