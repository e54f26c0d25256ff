"""The small subcommands: what a running fleet is asked, and what a fleet file is checked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
import numpy
from rich.console import Console
from rich.table import Table

from tritonfleet import talk
from tritonfleet.settings import Settings, resolve_settings
from tritonfleet.spec import load_fleet
from tritonfleet.spec.schema import schema_text
from tritonfleet.units import format_bytes

_COLOURS = {"READY": "green", "LOADING": "yellow", "UNLOADING": "yellow"}
TOP_CLASSES = 3


def _console() -> Console:
    return Console(highlight=False, soft_wrap=not sys.stdout.isatty())


def _print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def _found() -> talk.Addresses:
    return talk.addresses(resolve_settings(Settings()))


def _control(given: str | None) -> str:
    return (given or _found().control).rstrip("/")


def _control_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--json", "as_json", is_flag=True, help="For scripts.")(command)
    return click.option(
        "--control", envvar="TRITONFLEET_CONTROL", help="The fleet's control API, as a URL."
    )(command)


# -- a running fleet -------------------------------------------------------------------------


@click.command()
@_control_options
def ls(control: str | None, as_json: bool) -> None:
    """List the models: state, memory, priority, and why each is where it is."""
    status = talk.call("GET", f"{_control(control)}/v1/status")
    if as_json:
        _print_json(status)
        return
    console = _console()
    for server in status["servers"]:
        console.print(_server_line(server), markup=False)
    console.print(_models_table(status["models"]))


def _server_line(server: dict[str, Any]) -> str:
    occupied, budget = server["occupied_bytes"], server["budget_bytes"]
    margin = server["capacity_bytes"] - budget
    state = "" if server["up"] else "   DOWN, restarting"
    share = 100 * occupied / budget if budget else 0
    return (
        f"server {server['name']}: {format_bytes(occupied)} of {format_bytes(budget)} "
        f"occupied ({share:.0f} %), {format_bytes(margin)} kept as margin{state}"
    )


def _models_table(models: list[dict[str, Any]]) -> Table:
    table = Table("model", "state", "memory", "prio", "used", "why")
    for column in (2, 3, 4):
        table.columns[column].justify = "right"
    table.columns[0].no_wrap = table.columns[1].no_wrap = True
    for model in models:
        used = model["last_used_s_ago"]
        colour = _COLOURS.get(model["state"], "dim")
        table.add_row(
            model["name"] + (" [bold]📌[/bold]" if model["pinned"] else ""),
            f"[{colour}]{model['state']}[/{colour}]",
            format_bytes(model["footprint_bytes"]),
            str(model["priority"]),
            "-" if used is None else f"{used:.0f} s ago",
            model["reason"],
        )
    return table


def _act(verb: str, done: str, model: str, control: str | None, as_json: bool) -> None:
    url = f"{_control(control)}/v1/models/{quote(model, safe='')}/{verb}"
    answer = talk.call("POST", url)
    if as_json:
        _print_json(answer)
    else:
        _console().print(f"{model}: {done} ({answer['state']}, {answer['reason']})", markup=False)


@click.command()
@click.argument("model")
@_control_options
def load(model: str, control: str | None, as_json: bool) -> None:
    """Load MODEL now, making room for it if need be."""
    _act("load", "loaded", model, control, as_json)


@click.command()
@click.argument("model")
@_control_options
def unload(model: str, control: str | None, as_json: bool) -> None:
    """Unload MODEL once its requests are done; the next request loads it again."""
    _act("unload", "unloaded", model, control, as_json)


@click.command()
@click.argument("model")
@_control_options
def pin(model: str, control: str | None, as_json: bool) -> None:
    """Load MODEL and never evict it."""
    _act("pin", "pinned", model, control, as_json)


@click.command()
@click.argument("model")
@_control_options
def unpin(model: str, control: str | None, as_json: bool) -> None:
    """Let MODEL be evicted again."""
    _act("unpin", "unpinned", model, control, as_json)


@click.command()
@click.argument("model")
@_control_options
def explain(model: str, control: str | None, as_json: bool) -> None:
    """Tell every remembered decision about MODEL: who left for it, whom it left for, and why."""
    url = f"{_control(control)}/v1/models/{quote(model, safe='')}/decisions"
    decisions = talk.call("GET", url)
    if as_json:
        _print_json(decisions)
        return
    table = Table("when", "loaded", "evicted", "because", "stayed")
    for decision in decisions:
        kept = "\n".join(f"{name}: {reason}" for name, reason in decision["kept"].items())
        evicted = ", ".join(decision["evicted"]) or "-"
        when = f"{decision['seconds_ago']:.1f} s ago"
        table.add_row(when, decision["model"] or "-", evicted, decision["reason"], kept or "-")
    _console().print(table)


@click.command()
@click.argument("model")
@click.option("--version", type=click.IntRange(min=1), help="The version; else the newest.")
@click.option("--percent", type=click.FloatRange(0, 100), help="Of the requests, for a canary.")
@click.option("--promote", is_flag=True, help="The canary takes over.")
@click.option("--rollback", is_flag=True, help="The earlier version, or --version, takes over.")
@_control_options
def rollout(
    model: str,
    version: int | None,
    percent: float | None,
    promote: bool,
    rollback: bool,
    control: str | None,
    as_json: bool,
) -> None:
    """Bring a version of MODEL into service, or tell which are, where nothing is asked for."""
    wish = _wish(version, percent, promote=promote, rollback=rollback)
    url = f"{_control(control)}/v1/models/{quote(model, safe='')}/rollout"
    status = talk.call("POST", url, wish) if wish else talk.call("GET", url)
    if as_json:
        _print_json(status)
        return
    for name, value in status.items():
        _console().print(f"{name}: {'-' if value is None else value}", markup=False)


def _wish(
    version: int | None, percent: float | None, *, promote: bool, rollback: bool
) -> dict[str, Any]:
    """What the control API is asked for; {} to ask only how things stand."""
    if promote and (rollback or version or percent is not None):
        raise click.UsageError("--promote stands alone: it is the canary that takes over")
    if rollback and percent is not None:
        raise click.UsageError("--rollback takes no --percent: all requests go back at once")
    given = {"version": version, "percent": percent}
    details = {name: value for name, value in given.items() if value is not None}
    if promote or rollback:
        return {"action": "promote" if promote else "rollback", **details}
    return {"action": "start" if percent is None else "canary", **details} if details else {}


# -- inference -------------------------------------------------------------------------------


@click.command()
@click.argument("model")
@click.argument("inputs", nargs=-1)
@click.option("--gateway", envvar="TRITONFLEET_GATEWAY", help="The fleet's address, as a URL.")
@click.option("--json", "as_json", is_flag=True, help="Print Triton's answer as it is.")
def infer(model: str, inputs: tuple[str, ...], gateway: str | None, as_json: bool) -> None:
    """Ask MODEL: texts for a model that takes text, else one JSON document ('-' reads it).

    The document is an Open Inference Protocol request, or simply {"input name": nested lists}.
    """
    url = f"{(gateway or _found().gateway).rstrip('/')}/v2/models/{quote(model, safe='')}"
    metadata = talk.call("GET", url)
    labelled = _labelled_outputs(talk.call("GET", f"{url}/config"))
    answer = talk.call("POST", f"{url}/infer", _request(metadata, inputs, labelled))
    if as_json:
        _print_json(answer)
        return
    for output in answer["outputs"]:
        _console().print(_output_text(output), markup=False)


def _labelled_outputs(config: dict[str, Any]) -> set[str]:
    return {output["name"] for output in config["output"] if output.get("label_filename")}


def _request(metadata: dict[str, Any], inputs: tuple[str, ...], labelled: set[str]) -> Any:
    tensors = metadata["inputs"]
    if len(tensors) == 1 and tensors[0]["datatype"] == "BYTES" and inputs[:1] != ("-",):
        if not inputs:
            raise click.UsageError(f"give a text for '{tensors[0]['name']}'")
        body = {"inputs": [_tensor(tensors[0], [[text] for text in inputs])]}
    else:
        body = _from_document(tensors, _document(inputs))
    if labelled and "outputs" not in body:
        body["outputs"] = [
            {"name": output["name"], "parameters": {"classification": TOP_CLASSES}}
            if output["name"] in labelled
            else {"name": output["name"]}
            for output in metadata["outputs"]
        ]
    return body


def _document(inputs: tuple[str, ...]) -> Any:
    if len(inputs) != 1:
        raise click.UsageError("give one JSON document with the inputs, or '-' to read it")
    text = sys.stdin.read() if inputs[0] == "-" else inputs[0]
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"the input is not JSON: {error}") from error


def _from_document(tensors: list[dict[str, Any]], document: Any) -> dict[str, Any]:
    names = [tensor["name"] for tensor in tensors]
    if isinstance(document, list) and len(names) == 1:
        document = {names[0]: document}
    if not isinstance(document, dict):
        raise click.UsageError(f"the inputs are {', '.join(names)}: give a JSON object with them")
    if "inputs" in document and isinstance(document["inputs"], list):
        return document
    unknown = set(document) - set(names)
    if unknown:
        raise click.UsageError(
            f"no such input: {', '.join(sorted(unknown))}; the inputs are {names}"
        )
    by_name = {tensor["name"]: tensor for tensor in tensors}
    return {"inputs": [_tensor(by_name[name], value) for name, value in document.items()]}


def _tensor(tensor: dict[str, Any], value: Any) -> dict[str, Any]:
    try:
        shape = list(numpy.asarray(value).shape)
    except ValueError as error:
        raise click.UsageError(f"'{tensor['name']}' is not rectangular: {error}") from error
    return {"name": tensor["name"], "datatype": tensor["datatype"], "shape": shape, "data": value}


def _output_text(output: dict[str, Any]) -> str:
    data, shape = output["data"], output["shape"]
    head = f"{output['name']} {output['datatype']} {shape}: "
    if output["datatype"] == "BYTES":
        width = shape[-1] if len(shape) > 1 else len(data)
        rows = [data[start : start + width] for start in range(0, len(data), width)]
        lines = ["  ".join(_class_text(str(item)) for item in row) for row in rows]
        return head + "\n  ".join(["", *lines] if len(lines) > 1 else lines)
    shown = ", ".join(f"{value:.6g}" for value in data[:8])
    return head + shown + (f", … ({len(data)} values)" if len(data) > 8 else "")


def _class_text(item: str) -> str:
    """'0.93:2:weather', the form of Triton's classification extension, as 'weather 0.93'."""
    parts = item.split(":", 2)
    if len(parts) < 2:
        return item
    score, label = parts[0], parts[-1]
    try:
        return f"{label} {float(score):.3f}"
    except ValueError:
        return item


# -- fleet files -----------------------------------------------------------------------------


@click.command()
@click.argument("fleet_file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the resolved fleet.")
def validate(fleet_file: Path, as_json: bool) -> None:
    """Check FLEET_FILE and report all of its problems at once, with their lines."""
    fleet = load_fleet(fleet_file)
    if as_json:
        _print_json(fleet.model_dump(mode="json", by_alias=True))
    else:
        _console().print(f"{fleet_file}: {len(fleet.models)} models, no problems", markup=False)


@click.command()
def schema() -> None:
    """Print the JSON Schema of fleet files, for editors."""
    click.echo(schema_text(), nl=False)
