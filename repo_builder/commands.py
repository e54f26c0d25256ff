"""The commands around a build: diff, show, rollback, verify and report.

What they need is imported when they run, so that ``--help`` answers at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_builder.cli import open_settings, open_workshop
from tritonfleet.settings import DEFAULT_FLEET_FILE
from tritonfleet.units import format_bytes

if TYPE_CHECKING:
    from repo_builder.difference import Change
    from repo_builder.publishing.verify import Advance, Verdict
    from tritonfleet.server.layout import ManifestEntry

_EXIT_DIFFERENT = 1
_COLOURS = {"new": "green", "artifact": "green", "config": "yellow", "stale": "yellow",
            "rejected": "yellow", "unknown": "red"}  # fmt: skip

_fleet_option = click.option(
    "-f",
    "--fleet",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TRITONFLEET_FLEET",
    show_envvar=True,
    help=f"The fleet file; {DEFAULT_FLEET_FILE} if that is there.",
)
_repository_option = click.option(
    "--repository", type=click.Path(path_type=Path), help="The model repository."
)
_json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document and nothing else."
)


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    return _fleet_option(_repository_option(_json_option(command)))


@click.command()
@click.argument("models", nargs=-1, metavar="[MODEL]...")
@_options
def diff(
    models: tuple[str, ...], fleet: Path | None, repository: Path | None, as_json: bool
) -> None:
    """Tell what a build would change, and why.

    Without MODEL, all of the fleet. Nothing is built and nothing is written.
    """
    from repo_builder.difference import differences

    changes = differences(open_workshop(fleet, repository), models)
    if as_json:
        _print_json([change.to_json() for change in changes])
        return
    _print_changes(changes)


def _print_changes(changes: Sequence[Change]) -> None:
    from repo_builder.difference import MEANINGS

    for change in changes:
        if change.action == "unchanged":
            continue
        what = click.style(MEANINGS[change.action], fg=_COLOURS[change.action])
        reasons = f" ({'; '.join(change.reasons)})" if change.reasons else ""
        click.echo(f"{click.style(change.model, bold=True)} {what}{reasons}")
        for line in change.config.splitlines():
            colour = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
            click.echo("    " + click.style(line, fg=colour))
    unchanged = sum(change.action == "unchanged" for change in changes)
    click.echo(f"{unchanged} of {len(changes)} models unchanged")


@click.command()
@click.argument("model")
@_options
def show(model: str, fleet: Path | None, repository: Path | None, as_json: bool) -> None:
    """Show what is known of a published MODEL: versions, variants, parity, memory, timings."""
    entry = _entry(model, open_settings(fleet, repository).repository)
    if as_json:
        _print_json({"model": model, **entry.model_dump(mode="json")})
        return
    from repo_builder.show import console_for_tables, shown

    console_for_tables().print(shown(model, entry))


def _entry(model: str, repository: Path) -> ManifestEntry:
    from tritonfleet.errors import ModelNotFound
    from tritonfleet.server.layout import read_manifest

    entries = read_manifest(repository).models
    if model not in entries:
        raise ModelNotFound(model, tuple(entries))
    return entries[model]


@click.command()
@click.argument("model")
@click.option(
    "--to", type=click.IntRange(min=0), metavar="VERSION", help="The one before, if not given."
)
@_options
def rollback(
    model: str, to: int | None, fleet: Path | None, repository: Path | None, as_json: bool
) -> None:
    """Publish an earlier version of MODEL again, as its newest.

    The next build leaves it alone until the model's source or its entry in the fleet file changes.
    """
    from repo_builder.publishing.rollback import roll_back
    from repo_builder.workshop import digests_file

    settings = open_settings(fleet, repository)
    digests = digests_file(settings.state_dir)
    now = datetime.now(timezone.utc)
    restored = roll_back(model, settings.repository, digests, to, now=now)
    if as_json:
        _print_json(restored.to_json())
        return
    click.echo(
        f"{model}: version {restored.earlier} is published again, as version {restored.version}.\n"
        f"A server that holds version {restored.replaced} serves it until it loads the model "
        f"anew: 'tritonfleet unload {model}' brings that about with the next request."
    )


@click.command()
@click.argument("repository", required=False, type=click.Path(path_type=Path))
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Another repository, which has to be the same.",
)
@_fleet_option
@_json_option
@click.pass_context
def verify(
    context: click.Context,
    repository: Path | None,
    against: Path | None,
    fleet: Path | None,
    as_json: bool,
) -> None:
    """Prove that REPOSITORY holds exactly what its manifest says.

    Reads every byte. Ends with status 1 when anything is missing, changed or too much.
    """
    from repo_builder.publishing import verify as proof

    repository = open_settings(fleet, repository).repository
    size = sum(proof.total_bytes(each) for each in (repository, against) if each is not None)
    with _progress(size, quiet=as_json) as advance:
        verdict = proof.verify(repository, against, advance)
    if as_json:
        _print_json({"repository": str(repository), **verdict.to_json()})
    else:
        _print_verdict(repository, against, verdict)
    context.exit(_EXIT_DIFFERENT if verdict.differences else 0)


def _print_verdict(repository: Path, against: Path | None, verdict: Verdict) -> None:
    for difference in verdict.differences:
        click.echo(str(difference))
    read = f"{verdict.files} files, {format_bytes(verdict.size)}"
    count = len(verdict.differences)
    if count:
        click.secho(
            f"{repository}: {count} difference{'s' if count != 1 else ''} in {read}", fg="red"
        )
    else:
        same = f" and to {against}" if against else ""
        click.secho(f"{repository}: {read}, identical to the manifest{same}", fg="green")


@contextmanager
def _progress(size: int, quiet: bool) -> Iterator[Advance]:
    """A bar of bytes, on a terminal only."""
    if quiet or not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=size)
        yield lambda count: progress.advance(task, count)


@click.command()
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("report"),
    show_default=True,
    help="The folder to write into.",
)
@_options
def report(output: Path, fleet: Path | None, repository: Path | None, as_json: bool) -> None:
    """Write what the builder knows of all models as HTML and as Markdown, with plots."""
    from repo_builder.reports import write_report
    from tritonfleet.server.layout import read_manifest

    settings = open_settings(fleet, repository)
    html, markdown = write_report(read_manifest(settings.repository), output)
    if as_json:
        _print_json({"html": str(html), "markdown": str(markdown)})
    else:
        click.echo(f"{html}\n{markdown}")


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))
