"""Whether published ensembles still fit their members, when one of them is about to change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repo_builder.sources.ensemble import Member, fits, member_of
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import published_models
from tritonfleet.server.pbtxt import read_config


def broken_joints(model: str, config: Any, repository: Path) -> tuple[str, ...]:
    """What would not fit any more if a model were served with this configuration."""
    configs = {**_published(repository), model: config}
    affected = {
        name: each
        for name, each in configs.items()
        if each.ensemble_scheduling.step and model in {name, *_members(each)}
    }
    return tuple(
        f"ensemble '{name}': {problem}"
        for name, each in affected.items()
        for problem in _problems(name, each, configs, repository)
    )


def _published(repository: Path) -> dict[str, Any]:
    found = {}
    for name in published_models(repository):
        try:
            found[name] = read_config(repository, name)
        except (InvalidModelConfig, UnicodeDecodeError):
            continue  # no server loads it either
    return found


def _members(config: Any) -> tuple[str, ...]:
    return tuple(step.model_name for step in config.ensemble_scheduling.step)


def _problems(
    ensemble: str, config: Any, configs: Mapping[str, Any], repository: Path
) -> Iterator[str]:
    members = {}
    for name in dict.fromkeys(_members(config)):
        if name not in configs:
            yield f"its member '{name}' is not published"
            return
        members[name] = _member(name, configs[name], repository)
    steps = config.ensemble_scheduling.step
    whole = _member(ensemble, config, repository)
    given = dict(whole.inputs)
    for step in steps:
        yield from _unknown(step.output_map, members[step.model_name].outputs, step.model_name)
        ends = members[step.model_name].outputs
        given.update({tensor: ends[name] for name, tensor in step.output_map.items()
                      if name in ends})  # fmt: skip
    for step in steps:
        takers = members[step.model_name].inputs
        yield from _unknown(step.input_map, takers, step.model_name)
        yield from _unfit({n: t for n, t in step.input_map.items() if n in takers}, given, takers)
    yield from _unfit({name: name for name in whole.outputs}, given, whole.outputs)
    yield from _too_small(whole, members.values())


def _member(name: str, config: Any, repository: Path) -> Member:
    plain = type(config)()
    plain.CopyFrom(config)
    for output in plain.output:
        output.ClearField("label_filename")  # labels have no part in a joint
    return member_of(name, plain, repository / name)


def _unknown(names: Any, known: Mapping[str, Any], member: str) -> Iterator[str]:
    for name in names:
        if name not in known:
            yield f"it uses '{name}' of '{member}', which would no longer have it"


def _unfit(pairs: Mapping[str, str], given: Any, takers: Any) -> Iterator[str]:
    for name, tensor in pairs.items():
        if tensor in given and not fits(given[tensor], takers[name]):
            yield f"tensor '{tensor}' would not fit: {given[tensor]} meets {takers[name]}"


def _too_small(whole: Member, members: Any) -> Iterator[str]:
    for member in members:
        if member.max_batch_size < whole.max_batch_size:
            yield (
                f"it takes batches of {whole.max_batch_size}, "
                f"and '{member.name}' would take {member.max_batch_size}"
            )
