"""What types alone cannot tell about serving options: contradictions within and between models.

What depends on the artifact, such as the names of its tensors, shows when config.pbtxt is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from tritonfleet.spec.optimization import Optimization
from tritonfleet.spec.scheduling import (
    Control,
    DynamicBatching,
    InstanceGroup,
    SequenceBatching,
)
from tritonfleet.spec.serving import ServingSpec, TensorOptions, VersionPolicy

Location: TypeAlias = tuple[str | int, ...]
Finding: TypeAlias = tuple[Location, str, str | None]

_GENERATED = ("name", "platform", "backend", "max_batch_size", "input", "output")
"""What ``extra`` must not hold: it says what the model is."""
_NOT_FOR_ENSEMBLES = (
    "instance_group", "dynamic_batching", "sequence_batching", "optimization", "warmup",
    "batch_input", "batch_output", "default_model_filename", "cc_model_filenames",
    "model_operations", "runtime",
)  # fmt: skip
_CONTROL_VALUES = ("int32_false_true", "fp32_false_true", "bool_false_true")


def check_serving(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    """Everything wrong with a model's options, its other configurations included."""
    yield from _check_one(at, serving)
    own = {message for _, message, _ in _check_one(at, serving)}
    for name, options in serving.alternatives():
        for where, message, hint in _check_one((*at, "configs", name), options):
            # What is wrong in both is told once, where it is written.
            if message not in own:
                yield where, message, hint


def _check_one(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    if _alternatives(serving.version_policy) != 1:
        yield (*at, "version_policy"), "give exactly one of latest, specific and all", None
    yield from _check_warmups(at, serving)
    yield from _check_groups((*at, "instance_group"), serving.instance_group)
    yield from _check_tensors(at, serving)
    yield from _check_answers(at, serving)
    yield from _check_accelerators((*at, "optimization"), serving.optimization)
    yield from _check_extra((*at, "extra"), serving.extra)
    if serving.dynamic_batching is not None:
        where = (*at, "dynamic_batching")
        yield from _check_batching(where, serving.dynamic_batching, serving.max_batch_size)
    if serving.sequence_batching is not None:
        yield from _check_sequences((*at, "sequence_batching"), serving.sequence_batching, serving)


def _alternatives(policy: VersionPolicy) -> int:
    return bool(policy.latest) + bool(policy.specific) + policy.all


def _check_warmups(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    largest, seen = serving.max_batch_size, set()
    for index, warmup in enumerate(serving.warmup):
        where = (*at, "warmup", index)
        if largest is not None and warmup.batch_size > max(largest, 1):
            message = f"{warmup.batch_size} is above max_batch_size {largest}"
            yield (*where, "batch_size"), message, None
        name = warmup.name or f"warmup_{index}"
        if name in seen:
            yield (*where, "name"), f"two warm-ups are named '{name}'", "rename one"
        seen.add(name)
        for dimension, size in warmup.dimensions.items():
            if size < 1:
                yield (*where, "dimensions", dimension), f"{size} is no size", "give 1 or more"


def _check_groups(at: Location, groups: tuple[InstanceGroup, ...]) -> Iterator[Finding]:
    if not groups:
        yield at, "there must be at least one group", "leave it out for one instance"
    names = [group.name for group in groups if group.name]
    for index, group in enumerate(groups):
        where = (*at, index)
        if group.gpus and group.kind in ("cpu", "model"):
            yield (*where, "gpus"), f"instances of kind '{group.kind}' have no gpus", "drop one"
        if any(gpu < 0 for gpu in group.gpus) or len(set(group.gpus)) < len(group.gpus):
            yield (*where, "gpus"), "give each GPU's number once", "raise count for more instances"
        if group.name and names.count(group.name) > 1:
            yield (*where, "name"), f"two groups are named '{group.name}'", "rename one"
        asked = [each.name for each in group.rate_limiter.resources] if group.rate_limiter else []
        for name in sorted({name for name in asked if asked.count(name) > 1}):
            message = f"resource '{name}' is asked for more than once"
            yield (*where, "rate_limiter", "resources"), message, "add the counts up"
    if groups and all(group.passive for group in groups):
        yield at, "every group is passive: nothing would execute", "drop one 'passive'"


def _check_tensors(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    sides: tuple[tuple[str, Mapping[str, TensorOptions]], ...] = (
        ("input", serving.input), ("output", serving.output),
    )  # fmt: skip
    for side, tensors in sides:
        for name, options in tensors.items():
            where = (*at, side, name)
            if any(size == 0 or size < -1 for size in options.dims or ()):
                yield (*where, "dims"), "a size is at least 1, or -1", None
            if options.reshape is not None and options.dims is None:
                message = "a reshape needs dims: what clients send or get"
                yield (*where, "reshape"), message, "reshape itself is the artifact's shape"
    yield from _check_ragged(at, serving)


def _check_ragged(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    for name, options in serving.input.items():
        if not options.allow_ragged_batch:
            continue
        where = (*at, "input", name, "allow_ragged_batch")
        if serving.max_batch_size == 0:
            yield where, "a ragged batch needs a batch", "raise max_batch_size"
        if serving.dynamic_batching is None and serving.sequence_batching is None:
            yield where, "it has no effect without a batcher", "add dynamic_batching: {}"
    ragged = {name for name, given in serving.input.items() if given.allow_ragged_batch}
    for kind in ("batch_input", "batch_output"):
        for index, given in enumerate(getattr(serving, kind)):
            for name in sorted(set(given.source_input) - ragged):
                message = f"source_input '{name}' is not ragged"
                hint = f"say input: {{{name}: {{allow_ragged_batch: true}}}}"
                yield (*at, kind, index, "source_input"), message, hint


def _check_answers(at: Location, serving: ServingSpec) -> Iterator[Finding]:
    cached = serving.response_cache is not None and serving.response_cache.enable
    policy = serving.model_transaction_policy
    if cached and policy is not None and policy.decoupled:
        message = "a decoupled model has no one answer that a cache could keep"
        yield (*at, "response_cache"), message, "drop one of the two"
    if cached and serving.sequence_batching is not None:
        message = "answers within a sequence depend on the requests before"
        yield (*at, "response_cache"), message, "drop one of the two"


def _check_accelerators(at: Location, given: Optimization | None) -> Iterator[Finding]:
    if given is None or given.tensorrt is None or given.execution_accelerators is None:
        return
    others = given.execution_accelerators.gpu_execution_accelerator
    if any(each.name == "tensorrt" for each in others):
        yield (*at, "tensorrt"), "the accelerator 'tensorrt' is given twice", "drop one"


def _check_extra(at: Location, extra: Mapping[str, Any]) -> Iterator[Finding]:
    for key in extra:
        if key in _GENERATED:
            yield (*at, key), f"'{key}' follows from the model", "leave it out"


def _check_batching(
    at: Location, batching: DynamicBatching, largest: int | None
) -> Iterator[Finding]:
    yield from _check_preferred(at, batching.preferred_batch_size, largest)
    levels = batching.priority_levels
    if batching.default_priority_level > levels or (levels and not batching.default_priority_level):
        message = (
            f"default_priority_level must lie in 1..{levels}"
            if levels
            else ("default_priority_level needs priority_levels")
        )
        yield (*at, "default_priority_level"), message, None
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            message = f"level {level} is not among priority_levels 1..{levels}"
            yield (*at, "priority_queue_policy", level), message, None


def _check_preferred(
    at: Location, sizes: tuple[int, ...], largest: int | None
) -> Iterator[Finding]:
    for size in sizes:
        if size < 1:
            yield (*at, "preferred_batch_size"), f"{size} is no size", "give 1 or more"
        elif largest is not None and size > largest:
            where = (*at, "preferred_batch_size")
            yield where, f"{size} is above max_batch_size {largest}", None


def _check_sequences(
    at: Location, batching: SequenceBatching, serving: ServingSpec
) -> Iterator[Finding]:
    if serving.dynamic_batching is not None:
        message = "a model has one batcher, and dynamic_batching is given or in its profile"
        yield at, message, "add dynamic_batching: null"
    if batching.direct is not None and batching.oldest is not None:
        yield at, "give one of direct and oldest", None
    if batching.oldest is not None:
        sizes = batching.oldest.preferred_batch_size
        yield from _check_preferred((*at, "oldest"), sizes, serving.max_batch_size)
    kinds = [control.kind for given in batching.control_input for control in given.control]
    for kind in sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        yield (*at, "control_input"), f"two inputs are for the signal '{kind}'", "drop one"
    for index, given in enumerate(batching.control_input):
        for place, control in enumerate(given.control):
            yield from _check_control((*at, "control_input", index, "control", place), control)
    taken = [given.name for given in batching.control_input]
    taken += [state.input_name for state in batching.state]
    for name in sorted({name for name in taken if taken.count(name) > 1}):
        yield at, f"input '{name}' is filled in twice", "drop one"


def _check_control(at: Location, control: Control) -> Iterator[Finding]:
    given = [name for name in _CONTROL_VALUES if getattr(control, name) is not None]
    if control.kind == "corrid" and given:
        yield (*at, given[0]), "a correlation id is a number or text, not yes or no", "drop it"
    if control.kind != "corrid" and control.data_type is not None:
        yield (*at, "data_type"), "only 'corrid' has a data_type", "give a ..._false_true"
    if len(given) > 1:
        yield at, f"give one of {', '.join(given)}", None


def check_ensemble(at: Location, own: ServingSpec) -> Iterator[Finding]:
    """What an ensemble's own entry says in vain; what its profile says does not concern it."""
    for name in _NOT_FOR_ENSEMBLES:
        if name in own.model_fields_set and getattr(own, name):
            yield (*at, name), f"an ensemble has no {name}", "say it in its members"


def check_resources(models: Iterable[tuple[Location, ServingSpec]]) -> Iterator[Finding]:
    """One resource cannot be global in one model and for each device in another.

    Triton refuses the second of them, and from then on everybody else who asks for it.
    """
    known: dict[str, bool] = {}
    for at, serving in models:
        for index, group in enumerate(serving.instance_group):
            for resource in group.rate_limiter.resources if group.rate_limiter else ():
                if known.setdefault(resource.name, resource.is_global) != resource.is_global:
                    message = f"resource '{resource.name}' is global in one model and not in all"
                    where = (*at, "instance_group", index, "rate_limiter", "resources")
                    yield where, message, "use two names"
