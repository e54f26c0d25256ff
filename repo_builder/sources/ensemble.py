"""Ensembles: members joined by tensor names, checked at every joint.

Triton accepts a wrong joint in silence or refuses it at load; here it is refused at build, with
both sides named. Inputs, outputs and batch size follow from the members' published configurations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repo_builder.product import Product, Step
from repo_builder.signature import ANONYMOUS, BATCH, Signature, Tensor
from repo_builder.sources.base import AssembledSource, Digest, SourceContext
from tritonfleet.errors import InvalidModelConfig, did_you_mean
from tritonfleet.server.layout import published_models
from tritonfleet.server.pbtxt import datatype, read_config
from tritonfleet.spec.sources import EnsembleSource as EnsembleSpec


@dataclass(frozen=True, slots=True)
class End:
    """One member's side of a joint."""

    member: str
    name: str
    dtype: str
    dims: tuple[int, ...]
    labels: tuple[str, ...] = ()
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.member}.{self.name} ({self.dtype} {list(self.dims)})"


@dataclass(frozen=True, slots=True)
class Member:
    """A published model, as an ensemble sees it."""

    name: str
    max_batch_size: int
    inputs: Mapping[str, End]
    outputs: Mapping[str, End]


class EnsembleSource(AssembledSource[EnsembleSpec]):
    """Other models of the fleet, joined."""

    def state(
        self, spec: EnsembleSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """Nothing of its own: the members' fingerprints are added by the pipeline."""
        return {}

    def assemble(self, spec: EnsembleSpec, context: SourceContext, folder: Path) -> Product:
        """No files at all: the folder stays empty, which Triton wants to see."""
        members = {step.model: read_member(context, step.model) for step in spec.steps}
        return join(context.model, spec, members)


def read_member(context: SourceContext, name: str) -> Member:
    """A member's published configuration; InvalidModelConfig when there is none."""
    known = published_models(context.repository)
    if name not in known:
        guess = did_you_mean(name, known)
        hint = f"Did you mean '{guess}'?" if guess else f"Build '{name}' first."
        raise InvalidModelConfig(context.model, f"its member '{name}' is not published", hint)
    config = read_config(context.repository, name)
    return member_of(name, config, context.repository / name)


def member_of(name: str, config: Any, folder: Path) -> Member:
    """The ends that a configuration declares; its label files lie in ``folder``."""
    batched = config.max_batch_size > 0

    def ends(tensors: Iterable[Any]) -> dict[str, End]:
        return {
            tensor.name: End(
                name,
                tensor.name,
                datatype(tensor.data_type),
                (-1, *tensor.dims) if batched else tuple(tensor.dims),
                _label_lines(folder, getattr(tensor, "label_filename", "")),
                getattr(tensor, "optional", False),
            )
            for tensor in tensors
        }

    return Member(name, config.max_batch_size, ends(config.input), ends(config.output))


def _label_lines(folder: Path, name: str) -> tuple[str, ...]:
    return tuple((folder / name).read_text(encoding="utf-8").splitlines()) if name else ()


def join(model: str, spec: EnsembleSpec, members: Mapping[str, Member]) -> Product:
    """The ensemble that the steps make; InvalidModelConfig for a joint that does not fit."""
    steps = tuple(_step(model, step, members[step.model]) for step in spec.steps)
    sources = dict(_sources(model, steps, members))
    inputs = _joints(model, steps, members, sources)
    _check_order(model, steps)
    missing = [name for name in spec.outputs if name not in sources]
    if missing:
        hint = _suggest(missing[0], sources)
        raise InvalidModelConfig(model, f"no step gives its output '{missing[0]}'", hint)
    used = {*spec.outputs, *(tensor for step in steps for tensor in step.input_map.values())}
    batched = all(member.max_batch_size > 0 for member in members.values())
    return Product(
        backend="",
        signature=Signature(
            tuple(_tensor(name, end, batched) for name, end in inputs.items()),
            tuple(_tensor(name, sources[name], batched) for name in spec.outputs),
        ),
        batch_limit=min(m.max_batch_size for m in members.values()) if batched else 0,
        steps=tuple(_without_unused(step, used) for step in steps),
        labels={name: sources[name].labels for name in spec.outputs if sources[name].labels},
        optional_inputs=tuple(name for name, end in inputs.items() if end.optional),
    )


def _step(model: str, step: Any, member: Member) -> Step:
    """The step with every tensor of its member in its maps."""
    maps = []
    for side, given, ends in (
        ("input", step.input_map, member.inputs),
        ("output", step.output_map, member.outputs),
    ):
        for name in given:
            if name not in ends:
                cause = f"{side}_map of step '{member.name}' names '{name}', which it has not"
                raise InvalidModelConfig(model, cause, _suggest(name, ends))
        maps.append({name: given.get(name, name) for name in ends})
    return Step(member.name, maps[0], maps[1])


def _sources(
    model: str, steps: tuple[Step, ...], members: Mapping[str, Member]
) -> Iterator[tuple[str, End]]:
    """For each tensor, the output that gives it."""
    seen: dict[str, End] = {}
    for step in steps:
        for name, tensor in step.output_map.items():
            end = members[step.model].outputs[name]
            if tensor in seen:
                cause = f"tensor '{tensor}' comes from both {seen[tensor]} and {end}"
                raise InvalidModelConfig(model, cause, "Rename one with an output_map.")
            seen[tensor] = end
            yield tensor, end


def _joints(
    model: str,
    steps: tuple[Step, ...],
    members: Mapping[str, Member],
    sources: Mapping[str, End],
) -> dict[str, End]:
    """Checks what each input is fed with; gives the inputs that nobody feeds: the ensemble's."""
    unfed: dict[str, End] = {}
    taken = {tensor for step in steps for tensor in step.input_map.values()}
    for step in steps:
        for name, tensor in step.input_map.items():
            taker = members[step.model].inputs[name]
            giver = sources.get(tensor) or unfed.get(tensor)
            if giver is None:
                _check_meant(model, taker, tensor, sources, taken)
                unfed[tensor] = taker
            elif not fits(giver, taker):
                cause = f"tensor '{tensor}' does not fit: {giver} meets {taker}"
                raise InvalidModelConfig(
                    model, cause, "Join other tensors, or export another shape."
                )
            elif tensor in unfed:
                unfed[tensor] = _narrower(unfed[tensor], taker)
    return unfed


def _check_meant(
    model: str, taker: End, tensor: str, sources: Mapping[str, End], taken: set[str]
) -> None:
    """A misspelt joint would become an input of the ensemble; a spare tensor gives it away."""
    spare = (name for name, end in sources.items() if name not in taken and fits(end, taker))
    guess = did_you_mean(tensor, spare)
    if guess:
        cause = f"no step gives '{tensor}' to {taker}, and nobody takes '{guess}'"
        raise InvalidModelConfig(model, cause, f"Did you mean '{guess}'?")


def fits(giver: End, taker: End) -> bool:
    """Whether what one end gives can be what the other takes."""
    return (
        giver.dtype == taker.dtype
        and len(giver.dims) == len(taker.dims)
        and all(a == b or -1 in (a, b) for a, b in zip(giver.dims, taker.dims, strict=True))
    )


def _narrower(one: End, other: End) -> End:
    """An input that two members take must suit both, and be there if either needs it."""
    dims = tuple(b if a == -1 else a for a, b in zip(one.dims, other.dims, strict=True))
    return replace(one, dims=dims, optional=one.optional and other.optional)


def _check_order(model: str, steps: tuple[Step, ...]) -> None:
    """Refuses tensors that go round in a circle: such an ensemble would never answer."""
    made_by = {tensor: i for i, step in enumerate(steps) for tensor in step.output_map.values()}
    waits = {
        i: {made_by[tensor] for tensor in step.input_map.values() if tensor in made_by}
        for i, step in enumerate(steps)
    }
    done: set[int] = set()
    while ready := {i for i, needs in waits.items() if i not in done and needs <= done}:
        done |= ready
    if len(done) < len(steps):
        stuck = ", ".join(steps[i].model for i in waits if i not in done)
        raise InvalidModelConfig(model, f"steps {stuck} wait for each other", "Break the circle.")


def _without_unused(step: Step, used: set[str]) -> Step:
    """The step less the outputs that nobody takes, which Triton need not carry."""
    kept = {name: tensor for name, tensor in step.output_map.items() if tensor in used}
    return Step(step.model, step.input_map, kept)


def _tensor(name: str, end: End, batched: bool) -> Tensor:
    dims = tuple(ANONYMOUS if size == -1 else size for size in end.dims)
    return Tensor(name, end.dtype, (BATCH, *dims[1:]) if batched else dims)


def _suggest(name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    guess = did_you_mean(name, known)
    return f"Did you mean '{guess}'?" if guess else f"There are: {', '.join(known)}."
