"""The large files: proved by Envoy itself, put in place, in force or taken back.

Knows in which order files may change while requests pass; not what is in them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tritonfleet.errors import ConfigRejected, ServerTimeout, ServerUnreachable
from tritonfleet.gateway.envoy import access, files, resources
from tritonfleet.gateway.envoy.admin import Admin, Subscription
from tritonfleet.gateway.envoy.bootstrap import CLUSTERS_FILE, LISTENERS_FILE
from tritonfleet.gateway.envoy.listeners import ROUTES_FILES
from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan
from tritonfleet.gateway.envoy.program import Program, run_once
from tritonfleet.launchers import logs

_BOOTSTRAP = "bootstrap.json"
_ROUTES = tuple(ROUTES_FILES.values())
_SUBSCRIPTIONS = {
    CLUSTERS_FILE: ".cds",
    **{file: f".rds.{name}" for name, file in ROUTES_FILES.items()},
    LISTENERS_FILE: ".lds",
}
"""How Envoy calls the files that it watches, and in which order they are put in place."""
_SCRATCH = "validate.json"
_VALIDATION_TIMEOUT_S = 120.0
_IN_FORCE_TIMEOUT_S = 60.0
_PREFIX = re.compile(r"^error initializing configuration '[^']*': ", re.MULTILINE)
_AFTER_ALL = "Proto constraint validation failed"
_TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class Applied:
    """What came of a plan."""

    changed: bool
    restart: bool
    """Whether it takes effect in full only with a new Envoy: listeners changed, for example."""


class Configuration:
    """All files of one folder but the one of residency."""

    def __init__(
        self, folder: Path, admin: Admin, program: Program | None, log: Path | None = None
    ) -> None:
        self._folder, self._admin, self._program, self._log = folder, admin, program, log
        self._one_at_a_time = asyncio.Lock()

    async def apply(self, plan: GatewayPlan) -> Applied:
        """Puts the plan in force; ConfigRejected, and all as before, when Envoy refuses it."""
        async with self._one_at_a_time:
            wanted = await asyncio.to_thread(_render, plan)
            before = await asyncio.to_thread(self._present, wanted)
            changed = {name for name in wanted if wanted[name] != before[name]}
            try:
                if changed:
                    await self._validate(_to_prove(plan))
                    await self._replace(wanted, before)
            except ConfigRejected as error:
                words = access.without_keys(plan.access, error.cause)
                raise ConfigRejected(error.program, words) from None
            restart = _BOOTSTRAP in changed and await self._admin.ready()
            return Applied(bool(changed), restart)

    async def _validate(self, plan: GatewayPlan) -> None:
        if self._program is None:
            return
        scratch = self._folder / _SCRATCH
        try:
            await asyncio.to_thread(_write_scratch, scratch, plan)
            await _ask(self._program, scratch, plan)
        finally:
            scratch.unlink(missing_ok=True)

    async def _replace(
        self, wanted: Mapping[str, bytes], before: Mapping[str, bytes | None]
    ) -> None:
        try:
            for step in await asyncio.to_thread(_steps, wanted, before):
                await self._put(step)
        except BaseException:
            for name in before:  # in the order in which they came
                files.restore(self._folder / name, before[name])
            raise

    async def _put(self, contents: Mapping[str, bytes]) -> None:
        before = await self._subscriptions(time.monotonic() + _IN_FORCE_TIMEOUT_S)
        log_start = self._log.stat().st_size if self._log and self._log.exists() else 0
        changed = await asyncio.to_thread(self._write, contents)
        versions = {
            subscription: _version(contents[name])
            for name, subscription in _SUBSCRIPTIONS.items()
            if name in changed
        }
        if versions and before is not None:
            await self._until_in_force(versions, _rejections(before), log_start)

    async def _until_in_force(self, versions: Mapping[str, str], told: int, log_start: int) -> None:
        deadline = time.monotonic() + _IN_FORCE_TIMEOUT_S
        for pause_s in pauses(0.005, 0.1):
            seen = await self._subscriptions(deadline)
            if seen is None:
                return  # it has ended; the next one begins with these files
            if _rejections(seen) > told:
                raise ConfigRejected(str(self._program or "Envoy"), self._words(log_start))
            if all(_follows(seen, name, version) for name, version in versions.items()):
                return
            if time.monotonic() > deadline:
                raise ServerTimeout("envoy", "change of configuration", _IN_FORCE_TIMEOUT_S)
            await asyncio.sleep(pause_s)

    async def _subscriptions(self, deadline: float) -> Mapping[str, Subscription] | None:
        """What Envoy has taken and refused so far; None when there is no Envoy."""
        while True:
            try:
                return await self._admin.subscriptions()
            except ServerUnreachable:
                return None
            except ServerTimeout:  # it answers nobody while it takes in the files of thousands
                if time.monotonic() > deadline:
                    raise

    def _words(self, log_start: int) -> str:
        told = logs.tail(self._log, _TAIL_LINES, log_start) if self._log else ""
        return told or "see its log"

    def _present(self, wanted: Iterable[str]) -> dict[str, bytes | None]:
        return {name: files.read(self._folder / name) for name in wanted}

    def _write(self, contents: Mapping[str, bytes]) -> list[str]:
        return [name for name in contents if files.write(self._folder / name, contents[name])]


def pauses(first_s: float, longest_s: float) -> Iterator[float]:
    """How long to wait before each further look: often at first, ever more rarely."""
    while True:
        yield first_s
        first_s = min(longest_s, first_s * 1.5)


def _to_prove(plan: GatewayPlan) -> GatewayPlan:
    """The plan with one model of each kind, the one with the longest name.

    Models that differ in nothing but their names are written alike, and names have been checked
    long before. Envoy takes 2 ms for each: for thousands of them ten seconds or more.
    """
    kinds: dict[ModelPlan, ModelPlan] = {}
    for model in sorted(plan.models, key=lambda each: len(each.name)):
        kinds[replace(model, name="")] = model
    return replace(plan, models=tuple(kinds.values()))


def _render(plan: GatewayPlan) -> dict[str, bytes]:
    return {name: _versioned(content) for name, content in resources.files(plan).items()}


def _versioned(content: Any) -> bytes:
    if not isinstance(content, dict) or "version_info" not in content:
        return files.encode(content)
    return _watched([files.encode(each) for each in content["resources"]])


def _watched(resources: Sequence[bytes]) -> bytes:
    """One resource on each line, and a version that tells what they are.

    Envoy says which version is in force.
    """
    version = hashlib.sha256(b"\n".join(resources)).hexdigest()[:16]
    head = b'{"version_info":"%s","resources":[\n' % version.encode()
    return head + b",\n".join(resources) + b"\n]}"


def _resources(content: bytes) -> list[bytes]:
    return [line.removesuffix(b",") for line in content.split(b"\n")[1:-1] if line]


def _version(content: bytes) -> str:
    return content.split(b'"', 4)[3].decode()


def _rejections(seen: Mapping[str, Subscription]) -> int:
    return sum(each.rejected for each in seen.values())


def _follows(seen: Mapping[str, Subscription], name: str, version: str) -> bool:
    """Whether all who watch a file have its new version; perhaps nobody does."""
    watching = [each for subscription, each in seen.items() if subscription.endswith(name)]
    return all(each.version == version for each in watching)


def _steps(
    wanted: Mapping[str, bytes], before: Mapping[str, bytes | None]
) -> list[dict[str, bytes]]:
    """What to put in place at once, and in which order.

    A route must never name a cluster that is not there: clusters come first and go last.
    """
    changed = {name: content for name, content in wanted.items() if content != before[name]}
    kept = _with_former(wanted[CLUSTERS_FILE], before[CLUSTERS_FILE])
    steps = [
        {name: content for name, content in changed.items() if name not in _SUBSCRIPTIONS},
        {CLUSTERS_FILE: kept} if CLUSTERS_FILE in changed else {},
        {name: changed[name] for name in _ROUTES if name in changed},
        {LISTENERS_FILE: changed[LISTENERS_FILE]} if LISTENERS_FILE in changed else {},
        {CLUSTERS_FILE: wanted[CLUSTERS_FILE]} if kept != wanted[CLUSTERS_FILE] else {},
    ]
    return [step for step in steps if step]


def _with_former(clusters: bytes, before: bytes | None) -> bytes:
    """The clusters, and those of before that are no longer wanted."""
    new, old = _resources(clusters), _resources(before or b"")
    # Few differ in a fleet of thousands, and only they are parsed.
    differing = {json.loads(line)["name"] for line in set(new) - set(old)}
    known = set(new)
    leaving = [
        line for line in old if line not in known and json.loads(line)["name"] not in differing
    ]
    return _watched(new + leaving) if leaving else clusters


def _write_scratch(scratch: Path, plan: GatewayPlan) -> None:
    files.write(scratch, files.encode(resources.validation_file(plan)))


async def _ask(program: Program, scratch: Path, plan: GatewayPlan) -> None:
    arguments = [
        *("--mode", "validate", "--config-path", str(scratch)),
        *("--log-level", "error", "--log-format", "%v", "--disable-hot-restart"),
    ]
    command = program.command(arguments, mounts(plan))
    try:
        status, told = await run_once(command, _VALIDATION_TIMEOUT_S)
    except asyncio.TimeoutError:
        raise ServerTimeout("envoy", "validation", _VALIDATION_TIMEOUT_S) from None
    if status != 0:
        raise ConfigRejected(str(program), _cause(told))


def mounts(plan: GatewayPlan) -> tuple[Path, ...]:
    """The folders that an Envoy in a container must see."""
    tls, jwt = plan.access.tls, plan.access.jwt
    named = (plan.access_log, tls and tls.private_key, jwt and jwt.jwks_ca)
    return (plan.folder, *(file.parent for file in named if file))


def _cause(told: str) -> str:
    """What Envoy says is wrong, without the configuration that it may print before: it has keys."""
    return _PREFIX.sub("", told[max(0, told.rfind(_AFTER_ALL)) :]).strip()
