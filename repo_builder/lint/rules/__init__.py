"""All rules: what looks at one configuration, and what needs the whole repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from repo_builder.lint import repository as reading
from repo_builder.lint.findings import Expected, Finding, Rule
from repo_builder.lint.repository import Repository, Subject
from repo_builder.lint.rules import (
    accelerators,
    artifact,
    engines,
    ensembles,
    instances,
    layout,
    manifest,
    scheduling,
    tensors,
    text,
    warmup,
)

Check: TypeAlias = Callable[[Subject, Expected], Iterator[Finding]]
RepositoryCheck: TypeAlias = Callable[[Repository, Expected], Iterator[tuple[str, Finding]]]

CHECKS: tuple[Check, ...] = (
    layout.check,
    text.check,
    tensors.check,
    artifact.check,
    engines.check,
    instances.check,
    scheduling.check,
    warmup.check,
    accelerators.check,
)
REPOSITORY_CHECKS: tuple[RepositoryCheck, ...] = (
    ensembles.check_repository,
    instances.check_repository,
    manifest.check_repository,
)
_MODULES = (
    reading, layout, text, tensors, artifact, engines, instances, scheduling, warmup, accelerators,
    ensembles, manifest,
)  # fmt: skip
RULES: Mapping[str, Rule] = {
    rule.id: rule for module in _MODULES for rule in vars(module).values() if isinstance(rule, Rule)
}
"""Every rule by its id."""
