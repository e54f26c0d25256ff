"""Instance groups and the rate limiter: what a server refuses, or decides by itself."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from repo_builder.lint.backends import ENSEMBLE
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Repository, Subject

INSTANCE_COUNT = Rule("instance-count", "warning", "a number of instances left to the backend")
INSTANCE_GPUS = Rule("instance-gpus", "error", "GPUs for instances that cannot use them")
KIND_GPU = Rule("kind-gpu", "info", "a model that only a server with GPUs loads")
NO_GPU = Rule("no-gpu", "error", "GPUs that the server does not have")
ALL_PASSIVE = Rule("all-passive", "error", "instances none of which may execute: the server dies")
PROFILE_IGNORED = Rule("instance-profile", "error", "an optimisation profile outside TensorRT")
RESOURCE_SCOPE = Rule("resource-scope", "error", "a resource both global and per device")
RESOURCE_UNMET = Rule("resource-unmet", "error", "a resource that the server never has enough of")
RESOURCE_POOL = Rule("resource-pool", "info", "one model that enlarges a resource for all")
MANY_STUBS = Rule("many-stubs", "warning", "more python instances than /dev/shm has room for")

_TWO_ON_CPU = frozenset({"onnxruntime", "tensorflow"})
_DOCKER_SHM_INSTANCES = 60
"""Each takes 1 MiB of /dev/shm, of which Docker gives 64 MiB unless told otherwise."""


def check(subject: Subject, expected: Expected) -> Iterator[Finding]:
    """Everything about one model's instance groups."""
    if not subject.parsed:
        return
    groups = subject.config.instance_group
    if subject.backend == ENSEMBLE:
        return
    if not groups and subject.backend in _TWO_ON_CPU:
        yield _uncounted("it has no instance_group", "instance_group")
    for index, group in enumerate(groups):
        yield from _group(subject, group, f"instance_group[{index}]", expected)
    if groups and all(group.passive for group in groups):
        message = "all its instances are passive: its first request takes the server down"
        yield ALL_PASSIVE.found(message, "Drop 'passive' from one group.", "instance_group")


def _uncounted(what: str, place: str) -> Finding:
    message = f"{what}: on a CPU that backend starts two instances"
    return INSTANCE_COUNT.found(message, "Write instance_group [{ count: 1 }].", place)


def _group(subject: Subject, group: Any, place: str, expected: Expected) -> Iterator[Finding]:
    if group.count < 0:
        message = f"count is {group.count}"
        yield INSTANCE_COUNT.found(message, "Write count: 1.", place)
    elif group.count == 0 and subject.backend in _TWO_ON_CPU:
        yield _uncounted("its instance_group has no count", place)
    if group.gpus and group.kind in (group.KIND_CPU, group.KIND_MODEL):
        kind = type(group).Kind.Name(group.kind)
        message = f"gpus {list(group.gpus)} with {kind}"
        yield INSTANCE_GPUS.found(message, "Use KIND_GPU, or drop 'gpus'.", place)
    elif group.kind == group.KIND_GPU or group.gpus:
        yield from _gpus(group, place, expected.gpus)
    if group.profile and subject.backend != "tensorrt":
        message = f"profile {list(group.profile)} with the {subject.backend or 'unknown'} backend"
        yield PROFILE_IGNORED.found(message, "Only TensorRT engines have profiles.", place)


def _gpus(group: Any, place: str, available: int | None) -> Iterator[Finding]:
    if available is None:
        message = "only a server with GPUs loads it; one without refuses KIND_GPU and gpus"
        yield KIND_GPU.found(message, "Leave kind and gpus out to serve it anywhere.", place)
        return
    absent = [number for number in group.gpus if not 0 <= number < available]
    if absent or not available:
        wanted = f"GPU {', '.join(map(str, absent))}" if absent else "a GPU"
        message = f"it wants {wanted}; the server has {available}"
        yield NO_GPU.found(message, "Leave kind and gpus out to serve it anywhere.", place)


def check_repository(repository: Repository, expected: Expected) -> Iterator[tuple[str, Finding]]:
    """What only all models together show."""
    yield from _scopes(repository)
    yield from _unmet(repository, expected)
    yield from _pools(repository, expected)
    yield from _stubs(repository)


def _resources(repository: Repository) -> Iterator[tuple[str, str, Any]]:
    """Model, place and resource of every declaration."""
    for model, config in repository.configs.items():
        for index, group in enumerate(config.instance_group):
            for resource in group.rate_limiter.resources:
                yield model, f"instance_group[{index}].rate_limiter", resource


def _scopes(repository: Repository) -> Iterator[tuple[str, Finding]]:
    scopes: dict[str, dict[bool, str]] = defaultdict(dict)
    for model, place, resource in _resources(repository):
        scope = getattr(resource, "global")
        scopes[resource.name].setdefault(scope, model)
        other = scopes[resource.name].get(not scope)
        if other:
            message = f"'{resource.name}' is global here and for each device in {other}, or reverse"
            fix = "Make both the same: the failed load spoils the resource for later ones too."
            yield model, RESOURCE_SCOPE.found(message, fix, place)


def _unmet(repository: Repository, expected: Expected) -> Iterator[tuple[str, Finding]]:
    for model, place, resource in _resources(repository):
        available = expected.resources.get(resource.name)
        if available is not None and resource.count > available:
            message = f"it needs {resource.count} of '{resource.name}'; the server has {available}"
            fix = "Lower the count, or raise --rate-limit-resource."
            yield model, RESOURCE_UNMET.found(message, fix, place)
        elif resource.count == 0:
            message = f"it needs 0 of '{resource.name}', which limits nothing"
            yield model, RESOURCE_POOL.found(message, "Write a count, or drop it.", place)


def _pools(repository: Repository, expected: Expected) -> Iterator[tuple[str, Finding]]:
    """Without --rate-limit-resource, a server has as many as the greediest instance needs."""
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    for model, _, resource in _resources(repository):
        largest = counts[resource.name].get(model, 0)
        counts[resource.name][model] = max(largest, resource.count)
    for name, by_model in counts.items():
        if name in expected.resources or len(by_model) < 2:
            continue
        greedy = max(by_model, key=lambda model: by_model[model])
        rest = max(count for model, count in by_model.items() if model != greedy)
        if by_model[greedy] > rest:
            message = (
                f"its {by_model[greedy]} of '{name}' are what every server then has; the others "
                f"need {rest} at most and no longer keep each other out"
            )
            fix = f"Mean it, or start the server with --rate-limit-resource={name}:{rest}."
            yield greedy, RESOURCE_POOL.found(message, fix, "instance_group")


def _stubs(repository: Repository) -> Iterator[tuple[str, Finding]]:
    counts = [
        sum(max(group.count, 1) for group in subjects[0].config.instance_group) or 1
        for subjects in repository.models.values()
        if subjects[0].backend == "python"
    ]
    total = sum(counts)
    if total > _DOCKER_SHM_INSTANCES:
        message = f"{total} python instances take {total} MiB of /dev/shm; Docker gives 64"
        fix = "Start the container with a larger --shm-size if all are loaded at once."
        yield "", MANY_STUBS.found(message, fix)
