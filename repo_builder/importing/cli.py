"""``tritonfleet import``: a repository in, a fleet file out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from repo_builder.importing.fleet_file import Import

_EXIT_NOTHING = 1


@click.command("import")
@click.argument("repository", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("fleet.yaml"),
    show_default=True,
    help="The fleet file to write.",
)
@click.option(
    "--capacity",
    default="20GiB",
    show_default=True,
    help="Memory that the models share, as a size.",
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@click.pass_context
def import_repository(
    context: click.Context, /, repository: Path, output: Path, capacity: str, force: bool
) -> None:
    """Write a fleet file from an existing Triton repository.

    No weights are copied: the file names them where they are. Models that cannot be built again
    are listed in it with the reason.
    """
    from repo_builder.importing.fleet_file import import_models, render
    from tritonfleet.server.layout import replace_text

    _check(output, capacity, force)
    result = import_models(repository, output.resolve().parent)
    text = render(result, repository, _name(repository), capacity)
    if text:
        replace_text(output, text)
    _tell(result, output)
    context.exit(0 if result.models else _EXIT_NOTHING)


def _check(output: Path, capacity: str, force: bool) -> None:
    from tritonfleet.units import parse_bytes

    try:
        parse_bytes(capacity)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--capacity") from error
    if output.exists() and not force:
        raise click.UsageError(f"{output} is there already: pass --force to replace it.")
    if not output.resolve().parent.is_dir():
        raise click.UsageError(f"there is no folder {output.resolve().parent}.")


def _name(repository: Path) -> str:
    """The folder's name, as far as a fleet can have it."""
    return re.sub(r"[^A-Za-z0-9_.-]+|^[^A-Za-z0-9]+", "", repository.resolve().name) or "fleet"


def _tell(result: Import, output: Path) -> None:
    for model, imported in result.models.items():
        for note in imported.notes:
            click.echo(f"  {model} {note}")
    for model, reason in sorted(result.left_out.items()):
        click.echo(f"  left out {model}: {reason}")
    if result.models:
        count = len(result.models)
        models = "1 model" if count == 1 else f"{count} models"
        click.echo(f"{output}: {models}, {len(result.left_out)} left out")
    else:
        click.echo(f"nothing to import: {output} is not written", err=True)
