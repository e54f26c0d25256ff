"""``tritonfleet bench``: options in, tables and files out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import click
from rich.console import Console

from fleet_perf.bench import Order, run_bench
from fleet_perf.promises import RoundsOrder
from fleet_perf.report import WIDTH, sections, show, write
from fleet_perf.results import Results
from fleet_perf.scenarios import load_scenarios
from fleet_perf.warm import Say
from tritonfleet.settings import Settings, resolve_settings
from tritonfleet.spec import load_fleet

DEFAULT_SCENARIO = Path("perf/scenarios/first.yaml")
RESULTS = Path("perf/results")
EXIT_GOOD, EXIT_FAILED = 0, 1


@click.command()
@click.option("--scenario", type=click.Path(path_type=Path), metavar="FILE",
              help=f"What to measure, {DEFAULT_SCENARIO} if no --round-robin.")  # fmt: skip
@click.option("--serve", type=click.Path(path_type=Path), metavar="FLEET",
              help="Start this fleet if none answers.")  # fmt: skip
@click.option("--gateway", envvar="TRITONFLEET_GATEWAY", help="The fleet's address, as a URL.")
@click.option("--control", envvar="TRITONFLEET_CONTROL", help="Its control API, as a URL.")
@click.option("--repository", type=click.Path(path_type=Path), metavar="DIR",
              help="The fleet's model repository, for the bare Triton beside it.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR",
              help=f"Where the results go; {RESULTS}/<time> by default.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Short windows: figures to look at, not to keep.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--round-robin", type=click.IntRange(min=1), metavar="N",
              help="Send N requests over all models in turn, and watch memory.")  # fmt: skip
@click.option("--clients", type=click.IntRange(min=1), default=8, show_default=True,
              help="Of the round-robin.")  # fmt: skip
@click.option("--cold-samples", type=click.IntRange(min=1), default=3, show_default=True,
              help="Of each model, after the round-robin.")  # fmt: skip
def bench(
    scenario: Path | None,
    serve: Path | None,
    gateway: str | None,
    control: str | None,
    repository: Path | None,
    output: Path | None,
    quick: bool,
    as_json: bool,
    round_robin: int | None,
    clients: int,
    cold_samples: int,
) -> int:
    """Measure a running fleet against Triton itself.

    Warm models are asked through the gateway and past it, in turns; cold ones are compared with a
    load by a tritonserver that nobody manages. Exits with 1 when something could not be measured
    or a promise was broken.
    """
    if scenario is None and round_robin is None:
        scenario = DEFAULT_SCENARIO
    from_file = load_fleet(serve).settings if serve else Settings()
    order = Order(
        settings=resolve_settings(from_file, {"repository": repository}),
        scenarios=(scenario, load_scenarios(scenario)) if scenario else None,
        rounds=RoundsOrder(round_robin, clients, cold_samples) if round_robin else None,
        gateway=gateway,
        control=control,
        serve=serve,
        quick=quick,
    )
    progress = Console(stderr=True, highlight=False, soft_wrap=True)
    results = _run(order, progress)
    folder = output or RESULTS / datetime.now().strftime("%Y%m%d-%H%M%S")
    write(results, folder)
    _show(results, as_json, progress)
    progress.print(f"results: {folder}", markup=False)
    return EXIT_GOOD if results.good else EXIT_FAILED


def _run(order: Order, progress: Console) -> Results:
    with progress.status("looking for a fleet …") as status:

        def warn(text: str) -> None:
            progress.print(f"warning: {text}", style="yellow", markup=False)

        with ended_like_interrupted():
            return asyncio.run(run_bench(order, sayer(progress, status.update), warn))


@contextlib.contextmanager
def ended_like_interrupted() -> Iterator[None]:
    """SIGTERM cleans up as Ctrl-C does: a fleet that we have started must not outlive us."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def sayer(progress: Console, update: Say) -> Say:
    """On a terminal one line that changes; in a log one line for each step."""
    return update if progress.is_terminal else lambda text: progress.print(text, markup=False)


def _show(results: Results, as_json: bool, progress: Console) -> None:
    if as_json:
        click.echo(json.dumps(results.as_json(), indent=2))
    else:
        # Through a pipe rich would assume 80 columns and cut the figures.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        for section in sections(results):
            show(section, console)
    for error in results.failed:
        progress.print(f"not measured: {error}", style="red", markup=False)
