"""``tritonfleet lint``: options in, findings by model or one JSON document out."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from repo_builder.cli import open_settings

if TYPE_CHECKING:
    from repo_builder.lint.findings import Expected, Finding

_EXIT_FOUND = 1
_VERSION = re.compile(r"\d+(\.\d+)+")
_COLORS = {"error": "red", "warning": "yellow", "info": "cyan"}


@click.command()
@click.argument(
    "repository",
    required=False,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@click.option(
    "-f",
    "--fleet",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="TRITONFLEET_FLEET",
    show_envvar=True,
    help="The fleet file whose repository is meant where none is named.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document and nothing else.")
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.option("--rule", "chosen", multiple=True, metavar="ID", help="Only this rule; repeatable.")
@click.option("--ignore", multiple=True, metavar="ID", help="Not this rule; repeatable.")
@click.option(
    "--server-resources",
    multiple=True,
    metavar="NAME=COUNT",
    help="What tritonserver gets as --rate-limit-resource; repeatable.",
)
@click.option("--gpus", type=click.IntRange(min=0), help="How many GPUs the server has.")
@click.option("--triton-release", metavar="YY.MM", help="The server's release, such as 24.10.")
@click.option(
    "--tensorrt",
    metavar="VERSION",
    help="The server's TensorRT, such as 10.13.3, or the tag of an image of NVIDIA's.",
)
@click.option("--compute-capability", metavar="X.Y", help="Of the server's GPUs, such as 9.0.")
@click.pass_context
def lint(
    context: click.Context,
    /,
    repository: Path | None,
    fleet: Path | None,
    as_json: bool,
    strict: bool,
    chosen: tuple[str, ...],
    ignore: tuple[str, ...],
    **server: Any,
) -> None:
    """Find what is wrong with a Triton model repository, whoever made it.

    Configurations are held against the files beside them, against each other and against what is
    known to hurt. Every rule is told in docs/lint.md. Exits with 1 when an error was found.
    """
    from repo_builder.lint.linter import lint as find

    _check_ids((*chosen, *ignore))
    path = repository or _repository(fleet)
    subjects, found = find(path, _expected(**server))
    kept = [f for f in found if f.rule not in ignore and (not chosen or f.rule in chosen)]
    if as_json:
        click.echo(json.dumps(_document(path, len(subjects.models), kept), indent=2))
    else:
        _print(path, len(subjects.models), kept)
    failing = {"error", "warning"} if strict else {"error"}
    context.exit(_EXIT_FOUND if any(f.severity in failing for f in kept) else 0)


def _check_ids(ids: Iterable[str]) -> None:
    from repo_builder.lint.rules import RULES
    from tritonfleet.errors import did_you_mean

    for name in ids:
        if name not in RULES:
            guess = did_you_mean(name, RULES)
            hint = f"Did you mean '{guess}'?" if guess else "docs/lint.md lists them."
            raise click.UsageError(f"there is no rule '{name}'. {hint}")


def _repository(fleet: Path | None) -> Path:
    """The repository of the settings, as for the other commands."""
    found = open_settings(fleet, None).repository
    if not found.is_dir():
        raise click.UsageError(f"there is no repository {found}: name one.")
    return found


def _expected(server_resources: tuple[str, ...], **server: Any) -> Expected:
    from repo_builder.lint.findings import Expected
    from tritonfleet.server.releases import onnx_runtime_of

    resources = {}
    for given in server_resources:
        name, _, count = given.partition("=")
        if not name or not count.isdecimal():
            raise click.BadParameter(f"'{given}' is not NAME=COUNT", param_hint="server-resources")
        resources[name] = int(count)
    if server["triton_release"] is not None:
        try:
            onnx_runtime_of(server["triton_release"])
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="triton-release") from error
    if server["tensorrt"] is not None:
        server["tensorrt"] = _tensorrt(server["tensorrt"])
    return Expected(resources=resources, **server)


def _tensorrt(given: str) -> str:
    """TensorRT's version, also from a tag of NVIDIA's images."""
    from tritonfleet.server.releases import RELEASES, image_tensorrt

    known = image_tensorrt(given)
    if known is None and (given in RELEASES or not _VERSION.fullmatch(given)):
        cause = f"it is not known which TensorRT '{given}' has; its image tells as TRT_VERSION"
        raise click.BadParameter(cause, param_hint="tensorrt")
    return known or given


def _document(path: Path, models: int, found: list[Finding]) -> dict[str, Any]:
    return {
        "repository": str(path),
        "ok": not any(finding.severity == "error" for finding in found),
        "models": models,
        "counts": _counts(found),
        "findings": [finding.to_json() for finding in found],
    }


def _counts(found: Iterable[Finding]) -> dict[str, int]:
    counts = Counter(finding.severity for finding in found)
    return {severity: counts[severity] for severity in ("error", "warning", "info")}


def _print(path: Path, models: int, found: list[Finding]) -> None:
    for model, findings in groupby(found, key=lambda finding: finding.model):
        click.secho(model or "(repository)", bold=True)
        for finding in findings:
            severity = click.style(f"{finding.severity:7}", fg=_COLORS[finding.severity])
            click.echo(f"  {severity} {finding.rule}: {_sentence(finding)}")
            click.echo(f"          {finding.fix}")
    click.echo(_summary(path, models, found))


def _sentence(finding: Finding) -> str:
    """The message with its place, unless it begins with that already."""
    told = not finding.place or finding.message.startswith(finding.place)
    return finding.message if told else f"{finding.place}: {finding.message}"


def _summary(path: Path, models: int, found: list[Finding]) -> str:
    said = [
        f"{count} {severity}{'s' if count != 1 and severity != 'info' else ''}"
        for severity, count in _counts(found).items()
        if count
    ]
    noun = "model" if models == 1 else "models"
    return f"{path}: {models} {noun}, {', '.join(said) or 'nothing found'}"
