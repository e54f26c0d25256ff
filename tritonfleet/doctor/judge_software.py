"""Judges Python, the packages beside us, Envoy, and the repository."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tritonfleet.doctor.findings import Finding, failed, not_needed, ok, warning

_REQUIREMENT = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)(?:\[[^]]*\])?(?P<bounds>[^;]*)"
    r"(?:;\s*extra\s*==\s*['\"](?P<extra>[^'\"]+)['\"])?$"
)
_BOUND = re.compile(r"^\s*(>=|<=|==|<|>)\s*([\w.+!]+)\s*$")
_NUMBERS = re.compile(r"\d+(?:\.\d+)*")
_SOME = 5


# -- packages --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package of which some versions will do."""

    name: str
    wanted: str
    """Its name with the bounds, as pip takes it."""
    bounds: tuple[tuple[str, tuple[int, ...]], ...]
    extra: str | None = None

    def allows(self, version: str) -> bool:
        """Whether a version is within all bounds."""
        return all(_holds(release(version), sign, bound) for sign, bound in self.bounds)


def parse_requirement(text: str) -> Requirement:
    """One of our own requirements, which use bounds and extras, and no other markers.

    Raises ValueError for any other.
    """
    parts = _REQUIREMENT.match(text.strip())
    if parts is None:
        raise ValueError(f"{text!r} is no requirement of ours")
    bounds = tuple(_bound(bound) for bound in parts["bounds"].split(",") if bound.strip())
    wanted = parts["name"] + parts["bounds"].strip()
    return Requirement(parts["name"], wanted, bounds, parts["extra"])


def _bound(text: str) -> tuple[str, tuple[int, ...]]:
    parts = _BOUND.match(text)
    if parts is None:
        raise ValueError(f"{text!r} is no bound of a version")
    return parts[1], release(parts[2])


def release(version: str) -> tuple[int, ...]:
    """The numbers a version starts with, without zeros at their end: 1.0 is 1."""
    numbers = _NUMBERS.match(version)
    parts = [int(part) for part in numbers[0].split(".")] if numbers else []
    while parts and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def _holds(version: tuple[int, ...], sign: str, bound: tuple[int, ...]) -> bool:
    answers = {
        ">=": version >= bound,
        "<=": version <= bound,
        "==": version == bound,
        "<": version < bound,
        ">": version > bound,
    }
    return answers[sign]


def judge_packages(
    requirements: Iterable[Requirement], extras: frozenset[str], installed: Mapping[str, str]
) -> list[Finding]:
    """Whether what we need is installed, in versions that will do."""
    needed = [one for one in requirements if one.extra is None or one.extra in extras]
    found = [finding for one in needed if (finding := _package(one, installed))]
    return found or [ok(f"{len(needed)} packages, all of versions that will do")]


def _package(one: Requirement, installed: Mapping[str, str]) -> Finding | None:
    target = f"tritonfleet[{one.extra}]" if one.extra else one.wanted
    version = installed.get(canonical(one.name))
    if version is None:
        return failed(f"{one.name} is not installed", f"pip install '{target}'")
    if not one.allows(version):
        found = f"{one.name} is {version}, and {one.wanted} is needed"
        return failed(found, f"pip install '{one.wanted}'")
    return None


def canonical(name: str) -> str:
    """A package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


# -- repository ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Repository:
    """What is in the folder of models, and whether servers may read it."""

    path: Path
    exists: bool
    published: frozenset[str] = frozenset()
    unreadable: tuple[str, ...] = ()
    """Why the users of containers cannot read it, as the launcher would say."""


def judge_repository(repository: Repository, models: Iterable[str]) -> list[Finding]:
    """Whether the fleet's models are built."""
    models = tuple(models)
    if not models:
        return [not_needed("no fleet file names a model")]
    if not repository.exists:
        return [failed(f"there is no {repository.path}", "tritonfleet build")]
    missing = sorted(set(models) - repository.published)
    if len(missing) == len(models):
        return [failed(f"none of the fleet's models is in {repository.path}", "tritonfleet build")]
    found = [failed(cause) for cause in repository.unreadable]
    if missing:
        told = ", ".join(missing[:_SOME]) + (" and more" if len(missing) > _SOME else "")
        found.append(warning(f"not built, and so not available: {told}", "tritonfleet build"))
    return found or [ok(f"{repository.path}: all {len(models)} models are built")]
