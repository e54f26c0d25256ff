"""``tritonfleet build``: options in, a table or one JSON document out.

The builder itself is imported when the command runs, so that ``--help`` answers at once.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from repo_builder.results import BuildReport
    from repo_builder.workshop import Workshop

_EXIT_FAILED = 1
_EXIT_TERMINATED = 128 + signal.SIGTERM


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@click.option(
    "-f",
    "--fleet",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TRITONFLEET_FLEET",
    show_envvar=True,
    help="The fleet file; triton_configs/demo.yaml if that is there.",
)
@click.option("--repository", type=click.Path(path_type=Path), help="The repository to build.")
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Exports at once; each takes memory for its model.",
)
@click.option("--force", is_flag=True, help="Build also what has not changed.")
@click.option("--prune", is_flag=True, help="Remove built models that left the fleet file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def build(
    context: click.Context, /, models: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Turn models into a Triton model repository.

    Without MODEL, all of the fleet; with it, those and the members of the ensembles among them.
    What has not changed is left alone, and a model that fails does not stop the others.
    """
    start = time.perf_counter()
    _clean_up_when_terminated()
    shop, report = _run(context, models, as_json, **options)
    seconds = time.perf_counter() - start
    if as_json:
        click.echo(json.dumps(_document(shop, report, seconds), indent=2))
    else:
        from repo_builder.display import print_report

        print_report(report, seconds)
    context.exit(_EXIT_FAILED if report.failed else 0)


def _run(
    context: click.Context, models: tuple[str, ...], quiet: bool, **options: Any
) -> tuple[Workshop, BuildReport]:
    from repo_builder.display import Progress
    from repo_builder.pipeline import build_fleet
    from repo_builder.results import Unwatched
    from tritonfleet.errors import ModelNotFound

    with contextlib.nullcontext(Unwatched()) if quiet else Progress() as watcher:
        shop = _workshop(watcher=watcher, **options)
        try:
            return shop, build_fleet(shop, models)
        except ModelNotFound as error:
            raise click.UsageError(str(error), context) from error


def _workshop(fleet: Path | None, repository: Path | None, **options: Any) -> Workshop:
    from repo_builder.workshop import Workshop
    from tritonfleet.settings import DEFAULT_FLEET_FILE, resolve_settings
    from tritonfleet.spec import load_fleet

    path = fleet or (DEFAULT_FLEET_FILE if DEFAULT_FLEET_FILE.is_file() else None)
    if path is None:
        raise click.UsageError("no fleet file: pass --fleet, or set TRITONFLEET_FLEET.")
    spec = load_fleet(path)
    settings = resolve_settings(spec.settings, {"repository": repository})
    return Workshop(
        fleet=spec,
        base=path.resolve().parent,
        repository=settings.repository,
        state_dir=settings.state_dir,
        **options,
    )


def _document(shop: Workshop, report: BuildReport, seconds: float) -> dict[str, Any]:
    return {
        "fleet": shop.fleet.name,
        "repository": str(shop.repository),
        "ok": not report.failed,
        "seconds": round(seconds, 3),
        "models": [result.to_json() for result in report.results],
        "stale": list(report.stale),
        "pruned": list(report.pruned),
    }


def _clean_up_when_terminated() -> None:
    """A SIGTERM leaves as little behind as a Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
