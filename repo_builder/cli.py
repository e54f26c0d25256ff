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
    from tritonfleet.settings import Settings

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
    help="Exports at once; one for each core, as far as memory goes, where not given.",
)
@click.option("--force", is_flag=True, help="Build also what has not changed.")
@click.option("--prune", is_flag=True, help="Remove built models that left the fleet file.")
@click.option(
    "--no-proof",
    "proof",
    flag_value=False,
    default=True,
    help="Publish without a scratch tritonserver having loaded and asked each model.",
)
@click.option(
    "--report",
    "report_folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Write an HTML and a Markdown report into this folder.",
)
@click.option("--watch", "keep_watching", is_flag=True, help="Build again whenever a file changes.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.pass_context
def build(
    context: click.Context,
    /,
    models: tuple[str, ...],
    as_json: bool,
    keep_watching: bool,
    report_folder: Path | None,
    **options: Any,
) -> None:
    """Turn models into a Triton model repository.

    Without MODEL, all of the fleet; with it, those and the members of the ensembles among them.
    What has not changed is left alone, and a model that fails does not stop the others.
    """
    _clean_up_when_terminated()
    if keep_watching:
        from repo_builder.watch import watch_and_build

        watch_and_build(
            fleet_file(options["fleet"]),
            lambda: open_workshop(**options),
            lambda: _build_once(context, models, as_json, report_folder, **options),
        )
        return
    context.exit(_build_once(context, models, as_json, report_folder, **options))


def _build_once(
    context: click.Context,
    models: tuple[str, ...],
    as_json: bool,
    report_folder: Path | None,
    **options: Any,
) -> int:
    """One build, told; the exit status."""
    start = time.perf_counter()
    shop, report = _run(context, models, as_json, **options)
    seconds = time.perf_counter() - start
    pages = _write_report(shop, report_folder) if report_folder else ()
    if as_json:
        click.echo(json.dumps(_document(shop, report, seconds, pages), indent=2))
    else:
        from repo_builder.display import print_report

        print_report(report, seconds)
        for page in pages:
            click.echo(f"report: {page}")
    return _EXIT_FAILED if report.failed else 0


def _write_report(shop: Workshop, folder: Path) -> tuple[Path, ...]:
    from repo_builder.reports import write_report
    from tritonfleet.server.layout import read_manifest

    return tuple(write_report(read_manifest(shop.repository), folder))


def _run(
    context: click.Context, models: tuple[str, ...], quiet: bool, **options: Any
) -> tuple[Workshop, BuildReport]:
    from repo_builder.display import Progress
    from repo_builder.pipeline import build_fleet
    from repo_builder.results import Unwatched
    from tritonfleet.errors import ModelNotFound

    with contextlib.nullcontext(Unwatched()) if quiet else Progress() as watcher:
        shop = open_workshop(watcher=watcher, **options)
        try:
            return shop, build_fleet(shop, models)
        except ModelNotFound as error:
            raise click.UsageError(str(error), context) from error


def fleet_file(given: Path | None) -> Path:
    """The fleet file of a command: the given one, or the demo's in a checkout."""
    from tritonfleet.settings import DEFAULT_FLEET_FILE

    if given is None and not DEFAULT_FLEET_FILE.is_file():
        raise click.UsageError("no fleet file: pass --fleet, or set TRITONFLEET_FLEET.")
    return given or DEFAULT_FLEET_FILE


def open_settings(fleet: Path | None, repository: Path | None) -> Settings:
    """Where things lie; a fleet file is read if there is one, and need not be."""
    from tritonfleet.settings import DEFAULT_FLEET_FILE, Settings, resolve_settings
    from tritonfleet.spec import load_fleet

    known = fleet is not None or DEFAULT_FLEET_FILE.is_file()
    in_file = load_fleet(fleet_file(fleet)).settings if known else Settings()
    return resolve_settings(in_file, {"repository": repository})


def open_workshop(fleet: Path | None, repository: Path | None, **options: Any) -> Workshop:
    """What a command works with, by its options, the environment and the fleet file."""
    from repo_builder.workshop import Workshop
    from tritonfleet.settings import resolve_settings
    from tritonfleet.spec import load_fleet

    path = fleet_file(fleet)
    spec = load_fleet(path)
    settings = resolve_settings(spec.settings, {"repository": repository})
    return Workshop(
        fleet=spec,
        base=path.resolve().parent,
        repository=settings.repository,
        state_dir=settings.state_dir,
        onnxruntime_backend=settings.onnxruntime_backend,
        **options,
    )


def _document(
    shop: Workshop, report: BuildReport, seconds: float, pages: tuple[Path, ...]
) -> dict[str, Any]:
    return {
        "fleet": shop.fleet.name,
        "repository": str(shop.repository),
        "ok": not report.failed,
        "seconds": round(seconds, 3),
        "models": [result.to_json() for result in report.results],
        "stale": list(report.stale),
        "pruned": list(report.pruned),
        "reports": [str(page) for page in pages],
    }


def _clean_up_when_terminated() -> None:
    """A SIGTERM leaves as little behind as a Ctrl-C does."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
