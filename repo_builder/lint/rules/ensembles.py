"""Ensembles: members that are there, joints that fit, steps that can run and that matter."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from repo_builder.lint.backends import ENSEMBLE
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Repository, Subject
from tritonfleet.errors import did_you_mean
from tritonfleet.server.pbtxt import datatype

EMPTY_ENSEMBLE = Rule("empty-ensemble", "error", "an ensemble without steps, or steps without maps")
NOT_OF_ENSEMBLES = Rule("ensemble-option", "error", "a setting that no ensemble can have")
UNKNOWN_MEMBER = Rule("unknown-member", "error", "a member that is not in the repository")
MEMBER_VERSION = Rule("member-version", "error", "a version of a member that is not served")
MEMBER_CYCLE = Rule("member-cycle", "error", "an ensemble that contains itself")
STEP_TENSOR = Rule("step-tensor", "error", "a map naming a tensor that the member has not")
STEP_INPUT = Rule("step-input", "error", "an input of a member that nothing is mapped to")
JOINT_TYPE = Rule("joint-type", "error", "a joint of different data types")
JOINT_SHAPE = Rule("joint-shape", "error", "a joint of shapes that do not fit")
WRITTEN_TWICE = Rule("written-twice", "error", "a tensor that comes from two places")
UNREACHABLE_STEP = Rule("unreachable-step", "error", "a step whose inputs never come")
OUTPUT_UNMADE = Rule("output-unmade", "error", "an output of the ensemble that no step gives")
INPUT_UNUSED = Rule("input-unused", "error", "an input of the ensemble that no step takes")
OUTPUT_UNUSED = Rule("output-unused", "error", "a step's output that nobody takes")
IDLE_STEP = Rule("idle-step", "error", "a step that changes nothing in the answer")
MEMBER_BATCH = Rule("member-batch", "error", "batches larger than a member takes")
DECOUPLED_MEMBER = Rule("decoupled-member", "warning", "a member that makes requests streams")


@dataclass(frozen=True, slots=True)
class _End:
    """One side of a joint."""

    model: str
    tensor: str
    dtype: str
    dims: tuple[int, ...]
    batched: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return (-1, *self.dims) if self.batched else self.dims

    def __str__(self) -> str:
        return f"{self.model}.{self.tensor} ({self.dtype} {list(self.shape)})"

    def fits(self, other: _End) -> bool:
        """Triton's rule: dims, or else whole shapes, agree where neither is -1."""
        return _agree(self.dims, other.dims) or _agree(self.shape, other.shape)


_Ends: TypeAlias = "Mapping[str, _End]"


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or -1 in (a, b) for a, b in zip(one, other, strict=True)
    )


def check_repository(repository: Repository, expected: Expected) -> Iterator[tuple[str, Finding]]:
    """Everything about every ensemble."""
    yield from _cycles(repository)
    for model, subjects in repository.models.items():
        for subject in subjects:
            if subject.parsed and subject.config.HasField("ensemble_scheduling"):
                for finding in _ensemble(subject, repository):
                    yield model, finding


def _cycles(repository: Repository) -> Iterator[tuple[str, Finding]]:
    members = {
        model: {step.model_name for step in config.ensemble_scheduling.step}
        for model, config in repository.configs.items()
    }
    # What is left after taking away, again and again, whatever has no members left.
    while solved := [model for model, inner in members.items() if not inner & members.keys()]:
        for model in solved:
            del members[model]
    for model, inner in members.items():
        if model in _below(model, members):
            others = ", ".join(sorted(inner & members.keys()))
            message = f"it contains itself, by way of {others}"
            yield model, MEMBER_CYCLE.found(message, "Break the circle.", "ensemble_scheduling")


def _below(model: str, members: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    pending = [model]
    while pending:
        fresh = members.get(pending.pop(), set()) - found
        found |= fresh
        pending += fresh
    return found


def _ensemble(subject: Subject, repository: Repository) -> Iterator[Finding]:
    steps = list(subject.config.ensemble_scheduling.step)
    yield from _options(subject.config)
    if not steps:
        yield EMPTY_ENSEMBLE.found("it has no steps", "Write one for each member.", _place())
    for index, step in enumerate(steps):
        yield from _member(subject, index, step, repository)
    yield from _joints(subject, steps, repository)
    yield from _flow(subject.config, steps)


def _options(config: Any) -> Iterator[Finding]:
    if config.platform != ENSEMBLE or config.backend:
        message = f"platform '{config.platform}', backend '{config.backend}'"
        yield NOT_OF_ENSEMBLES.found(message, 'Write platform: "ensemble", no backend.', "platform")
    for field in ("instance_group", "optimization", "model_warmup"):
        present = getattr(config, field) if field != "optimization" else config.HasField(field)
        if present:
            message = f"an ensemble has no {field}: the server refuses it"
            yield NOT_OF_ENSEMBLES.found(message, "Give it to the members.", field)


def _place(index: int | None = None, step: Any = None) -> str:
    whole = "ensemble_scheduling"
    return whole if index is None else f"{whole}.step[{index}] '{step.model_name}'"


def _member(subject: Subject, index: int, step: Any, repository: Repository) -> Iterator[Finding]:
    place = _place(index, step)
    for side in ("input", "output"):
        if not getattr(step, f"{side}_map"):
            message = f"the step has no {side}_map"
            yield EMPTY_ENSEMBLE.found(message, "Map each tensor of the member.", place)
    if step.model_namespace:
        return  # it lies in another repository
    if step.model_name not in repository.models:
        guess = did_you_mean(step.model_name, repository.models)
        fix = f"Did you mean '{guess}'?" if guess else "Add it to the repository."
        yield UNKNOWN_MEMBER.found(f"there is no model '{step.model_name}'", fix, place)
        return
    member = repository.models[step.model_name][0]
    if step.model_version > 0 and step.model_version not in member.served:
        message = f"it wants version {step.model_version}; served: {list(member.served)}"
        yield MEMBER_VERSION.found(message, "Write -1 for the newest.", place)
    if member.parsed:
        yield from _member_config(subject.config, step, member.config, place)


def _member_config(ensemble: Any, step: Any, member: Any, place: str) -> Iterator[Finding]:
    largest = member.max_batch_size
    if 0 < largest < ensemble.max_batch_size:
        message = (
            f"the ensemble takes batches of {ensemble.max_batch_size}, the member of {largest}"
        )
        yield MEMBER_BATCH.found(message, "Lower max_batch_size, or raise the member's.", place)
    decoupled = member.model_transaction_policy.decoupled
    if decoupled and not ensemble.model_transaction_policy.decoupled:
        message = "the member is decoupled: single requests to the ensemble are refused with 501"
        yield DECOUPLED_MEMBER.found(message, "Have clients use streams.", place)
    for side, given, tensors in (
        ("input", step.input_map, member.input),
        ("output", step.output_map, member.output),
    ):
        names = [tensor.name for tensor in tensors]
        for name in sorted(set(given) - set(names) if names else ()):
            guess = did_you_mean(name, names)
            fix = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(names)}."
            yield STEP_TENSOR.found(f"the member has no {side} '{name}'", fix, place)
    for tensor in member.input:
        if tensor.name not in step.input_map and not tensor.optional:
            message = f"nothing is mapped to the member's input '{tensor.name}'"
            yield STEP_INPUT.found(message, "Add it to input_map.", place)


def _joints(subject: Subject, steps: list[Any], repository: Repository) -> Iterator[Finding]:
    """Every end of a tensor against the first: who gives it, or the ensemble itself."""
    ends: dict[str, list[_End]] = defaultdict(list)
    for name, end in _ends(subject.model, subject.config, "input", reshaped=True).items():
        ends[name].append(end)
    for side in ("output", "input"):
        for step in steps:
            config = repository.configs.get(step.model_name)
            if config is None or step.model_namespace:
                continue
            members = _ends(step.model_name, config, side)
            for name, tensor in sorted(getattr(step, f"{side}_map").items()):
                if name in members:
                    ends[tensor].append(members[name])
    for name, end in _ends(subject.model, subject.config, "output", reshaped=True).items():
        ends[name].append(end)
    for tensor, (first, *others) in ends.items():
        for other in others:
            yield from _joint(tensor, first, other)


def _ends(model: str, config: Any, side: str, reshaped: bool = False) -> _Ends:
    """The tensors of one side; an ensemble hands its own on in their inner shape."""
    return {
        tensor.name: _End(
            model,
            tensor.name,
            datatype(tensor.data_type),
            tuple(tensor.reshape.shape if reshaped and tensor.HasField("reshape") else tensor.dims),
            config.max_batch_size > 0,
        )
        for tensor in getattr(config, side)
    }


def _joint(tensor: str, one: _End, other: _End) -> Iterator[Finding]:
    message = f"'{tensor}' joins {one} and {other}"
    if one.dtype != other.dtype:
        yield JOINT_TYPE.found(message, "Join tensors of one type, or cast in between.", _place())
    elif not one.fits(other):
        yield JOINT_SHAPE.found(message, "Join tensors that fit, or reshape one.", _place())


def _flow(config: Any, steps: list[Any]) -> Iterator[Finding]:
    """Where tensors come from, and where they go."""
    inputs = [tensor.name for tensor in config.input]
    outputs = {tensor.name for tensor in config.output}
    given = Counter((*inputs, *(name for step in steps for name in step.output_map.values())))
    taken = {name for step in steps for name in step.input_map.values()}
    for name, count in given.items():
        if count > 1 and not (name in inputs and inputs.count(name) == count):
            message = f"'{name}' comes from {count} places"
            yield WRITTEN_TWICE.found(message, "Rename one in its output_map.", _place())
    for name in sorted(outputs - set(given)):
        guess = did_you_mean(name, given)
        fix = f"Did you mean '{guess}'?" if guess else "Map a step's output to it."
        yield OUTPUT_UNMADE.found(f"no step gives the output '{name}'", fix, "output")
    for name in sorted(set(inputs) - taken - outputs):
        message = f"no step takes the input '{name}'"
        yield INPUT_UNUSED.found(message, "Map it to a member's input, or drop it.", "input")
    stuck = _stuck(steps, inputs)
    for index in stuck:
        yield _unreachable(index, steps[index], given)
    needed = _needed(steps, outputs)
    for index, step in enumerate(steps):
        if index not in needed and index not in stuck:
            message = "none of its outputs leads to an output of the ensemble"
            yield IDLE_STEP.found(message, "Use one, or drop the step.", _place(index, step))
            continue
        for name in sorted(set(step.output_map.values()) - taken - outputs):
            message = f"nobody takes '{name}'"
            fix = "Drop it from output_map: the server refuses a tensor that nobody uses."
            yield OUTPUT_UNUSED.found(message, fix, _place(index, step))


def _stuck(steps: list[Any], inputs: Iterable[str]) -> list[int]:
    """The steps that never run, whatever a request holds."""
    there, waiting = set(inputs), dict(enumerate(steps))
    while ready := [i for i, s in waiting.items() if set(s.input_map.values()) <= there]:
        for index in ready:
            there.update(waiting.pop(index).output_map.values())
    return sorted(waiting)


def _unreachable(index: int, step: Any, given: Mapping[str, int]) -> Finding:
    absent = sorted(set(step.input_map.values()) - set(given))
    if not absent:
        message = "it waits for tensors that themselves wait for it or never come"
        return UNREACHABLE_STEP.found(message, "Break the circle.", _place(index, step))
    guess = did_you_mean(absent[0], given)
    fix = f"Did you mean '{guess}'?" if guess else "Give it by a step, or as an input."
    message = f"nobody gives '{absent[0]}', so the step never runs"
    return UNREACHABLE_STEP.found(message, fix, _place(index, step))


def _needed(steps: list[Any], outputs: Iterable[str]) -> set[int]:
    """The steps that an output of the ensemble goes back to."""
    wanted, needed = set(outputs), set[int]()
    while fresh := {
        index
        for index, step in enumerate(steps)
        if index not in needed and wanted & set(step.output_map.values())
    }:
        needed |= fresh
        wanted.update(name for index in fresh for name in steps[index].input_map.values())
    return needed
