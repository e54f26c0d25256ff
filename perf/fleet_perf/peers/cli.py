"""``tritonfleet bench-peers`` and ``bench-cycles``: options in, tables and files out."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from fleet_perf.cli import EXIT_FAILED, EXIT_GOOD, RESULTS, ended_like_interrupted, sayer
from fleet_perf.peers import cycles as memory
from fleet_perf.peers import report
from fleet_perf.peers.job import NETWORKS, Effort, Job
from fleet_perf.peers.run import PeersOrder, compare
from fleet_perf.peers.systems import NATIVE, PYTHON, FleetSystem, all_systems
from fleet_perf.report import WIDTH, Section, show, write_files
from fleet_perf.warm import Say
from tritonfleet.settings import Settings, resolve_settings

T = TypeVar("T")
CACHE = "peers"
"""Below the state directory."""
CYCLE_MODELS = 4


@click.command()
@click.option("--system", "names", multiple=True, type=click.Choice(list(all_systems())),
              help="Compare only this one; may be given several times.")  # fmt: skip
@click.option("--network", type=click.Choice(list(NETWORKS)), default="embedding",
              show_default=True, help="What kind of model.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR",
              help=f"Where the results go; {RESULTS}/peers-<time> by default.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Short bursts: figures to look at, not to keep.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def bench_peers(
    names: tuple[str, ...], network: str, output: Path | None, quick: bool, as_json: bool
) -> int:
    """Compare this fleet with Ray Serve and LitServe on one job, in one run.

    The peers are installed in virtual environments of their own, below the state directory, on the
    first run. Exits with 1 when something could not be measured or a promise was broken.
    """
    known = all_systems()
    order = PeersOrder(
        systems=tuple(known[name] for name in names or known),
        job=Job(network=NETWORKS[network]),
        effort=Effort.quick() if quick else Effort(),
        cache=_cache(),
        quick=quick,
    )
    progress = _progress()
    results = _run(progress, lambda say, warn: compare(order, say, warn))
    _finish(
        output or _folder("peers"), results.as_json(), report.markdown(results),
        report.sections(results), as_json, progress,
    )  # fmt: skip
    return EXIT_GOOD if results.good else EXIT_FAILED


@click.command()
@click.option("--cycles", type=click.IntRange(min=2), default=2000, show_default=True,
              help="Loads, each followed by a request and an unload.")  # fmt: skip
@click.option("--backend", type=click.Choice([NATIVE, PYTHON]), default=NATIVE, show_default=True,
              help="For ONNX models.")  # fmt: skip
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR",
              help=f"Where the results go; {RESULTS}/cycles-<time> by default.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def bench_cycles(cycles: int, backend: str, output: Path | None, as_json: bool) -> int:
    """Watch tritonserver's memory while models of 25 MB come and go.

    Exits with 1 when it rises.
    """
    system = all_systems()[backend]
    assert isinstance(system, FleetSystem)
    job = replace(Job(), models=CYCLE_MODELS, room=1, tiny_models=0)
    progress = _progress()
    results = _run(
        progress, lambda say, _: memory.run_cycles(system, job, cycles, _cache(), say)
    )  # fmt: skip
    _finish(
        output or _folder("cycles"), results.as_json(), memory.markdown(results),
        memory.sections(results), as_json, progress,
    )  # fmt: skip
    return EXIT_GOOD if results.flat else EXIT_FAILED


def _cache() -> Path:
    return resolve_settings(Settings()).state_dir.resolve() / CACHE


def _folder(kind: str) -> Path:
    return RESULTS / f"{kind}-{datetime.now():%Y%m%d-%H%M%S}"


def _progress() -> Console:
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _run(progress: Console, work: Callable[[Say, Say], Coroutine[Any, Any, T]]) -> T:
    with progress.status("starting …") as status:

        def warn(text: str) -> None:
            progress.print(f"warning: {text}", style="yellow", markup=False)

        with ended_like_interrupted():
            return asyncio.run(work(sayer(progress, status.update), warn))


def _finish(
    folder: Path,
    data: Mapping[str, Any],
    text: str,
    sections: Sequence[Section],
    as_json: bool,
    progress: Console,
) -> None:
    """Files for later, and JSON or tables for now."""
    write_files(folder, data, text)
    if as_json:
        click.echo(json.dumps(data, indent=2))
    else:
        # Through a pipe rich would assume 80 columns and cut the figures.
        console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
        for section in sections:
            show(section, console)
    progress.print(f"results: {folder}", markup=False)
