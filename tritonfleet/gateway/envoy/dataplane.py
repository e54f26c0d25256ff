"""The direct way to resident models, as files that Envoy watches.

Residency is one small file that changes with every load and eviction; the rest changes seldom.
Everything is written whether or not an Envoy runs: one that starts later begins with what is there.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from tritonfleet.errors import ServerTimeout, ServerUnreachable
from tritonfleet.gateway.envoy import files, resources
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.configuration import Applied, Configuration, pauses
from tritonfleet.gateway.envoy.plan import GatewayPlan, ModelPlan, Residency, ServerAddress, Split
from tritonfleet.gateway.envoy.program import Program
from tritonfleet.gateway.envoy.residency import GENERATION

_RECORD = "residency.record.json"
_FIRST_POLL_S, _LONGEST_POLL_S = 0.001, 0.05
_RETRY_S = 1.0
_LOOKS = 2
"""Envoy's workers learn of a change a moment after its main thread says that it is in force, so one
look that finds nothing under way could be too early."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _State:
    """What residency is to become with the next write."""

    generation: int = 0
    on: dict[str, str] = field(default_factory=dict)
    canary_percent: dict[str, float] = field(default_factory=dict)
    mirror_percent: dict[str, float] = field(default_factory=dict)

    def frozen(self) -> Residency:
        return Residency(
            self.generation, dict(self.on), dict(self.canary_percent), dict(self.mirror_percent)
        )


class DataPlane:
    """Implements the controller's ``Endpoints``, and the shares of canaries and mirrors.

    Begins with the residency that an earlier process has left in the folder: an Envoy that outlived
    it goes on undisturbed. ``settle`` drops what nobody has published again.
    """

    def __init__(
        self,
        folder: Path,
        program: Program | None,
        *,
        drain_timeout_s: float = 30.0,
        log: Path | None = None,
    ) -> None:
        files.prepare(folder)
        self._folder, self._drain_timeout_s = folder, drain_timeout_s
        self.admin = Admin(folder / "admin.sock")
        self._configuration = Configuration(folder, self.admin, program, log)
        self._plan: GatewayPlan | None = None
        self._state = _remembered(folder / _RECORD)
        self._adopted = set(self._state.on)
        self._leaving: set[str] = set()
        self._write_is_due = False

    async def close(self) -> None:
        """Leaves the files as they are, for whoever comes next."""
        if self._write_is_due:
            self._write()
        await self.admin.close()

    @property
    def plan(self) -> GatewayPlan | None:
        """What is in force, but for residency."""
        return self._plan

    @property
    def residency(self) -> Residency:
        """What is in force, or will be in a moment."""
        return self._state.frozen()

    async def apply(self, plan: GatewayPlan) -> Applied:
        """Puts a plan in force; ConfigRejected, and all as before, when Envoy refuses it."""
        applied = await self._configuration.apply(plan)
        self._plan = plan
        for gone in self._state.on.keys() - {model.name for model in plan.models}:
            del self._state.on[gone]
        self._state.generation += 1
        self._write()  # at once: an Envoy may be started as soon as this returns
        return applied

    async def set_servers(self, servers: tuple[ServerAddress, ...]) -> None:
        """Tells where the tritonservers are. Publish their models only afterwards."""
        assert self._plan, "there is no plan yet"
        if servers != self._plan.servers:
            await self.apply(replace(self._plan, servers=servers))

    async def split(self, model: str, stable: int | None, canary: int | None) -> None:
        """Which versions the requests that name none go to; in force when it returns."""
        both = None if stable is None and canary is None else Split(stable, canary)
        await self._replan(model, lambda planned: replace(planned, split=both))

    async def share(self, model: str, percent: float) -> None:
        """How many of these requests the canary gets; in force when it returns."""
        await self._until_in_force(self._set(self._state.canary_percent, model, percent))

    async def mirror(self, model: str, percent: float) -> None:
        """How many of a model's requests are copied; in force when it returns."""
        await self._until_in_force(self._set(self._state.mirror_percent, model, percent))

    def publish(self, model: str, server: str) -> None:
        """New requests may go straight to the server, a few milliseconds from now."""
        self._adopted.discard(model)
        if self._state.on.get(model) != server:
            self._state.on[model] = server
            self._change()

    async def withdraw(self, model: str) -> None:
        """Returns once no request goes the direct way, or after the drain timeout.

        At once when there is no Envoy that could carry any.
        """
        self._adopted.discard(model)
        if self._state.on.pop(model, None) is not None:
            self._leaving.add(model)
            self._change()
        if model not in self._leaving:
            return
        await self._until_idle(model, self._state.generation)
        self._leaving.discard(model)

    def settle(self) -> None:
        """Drops what an earlier process had published, and this one has not."""
        for model in self._adopted:
            self._state.on.pop(model, None)
        if self._adopted:
            self._adopted.clear()
            self._change()

    async def in_flight(self) -> Mapping[str, int]:
        """How many requests each model has at its server, or waiting for it, directly."""
        try:
            return await self._under_way({*self._state.on, *self._leaving})
        except (ServerUnreachable, ServerTimeout):
            return {}

    async def _until_idle(self, model: str, generation: int) -> None:
        try:
            await asyncio.wait_for(self._drained(model, generation), self._drain_timeout_s)
        except asyncio.TimeoutError:
            _log.warning("gave up draining model=%s after_s=%g", model, self._drain_timeout_s)

    async def _drained(self, model: str, generation: int) -> None:
        await self._until_in_force(generation)
        looks = 0
        for pause_s in pauses(_FIRST_POLL_S, _LONGEST_POLL_S):
            looks = looks + 1 if await self._is_idle(model) else 0
            if looks == _LOOKS:
                return
            await asyncio.sleep(pause_s)

    async def _is_idle(self, model: str) -> bool:
        try:
            return not await self._under_way({model})
        except ServerUnreachable:
            return True  # with Envoy, its requests have gone
        except ServerTimeout:
            return False

    async def _until_in_force(self, generation: int) -> None:
        for pause_s in pauses(_FIRST_POLL_S, _LONGEST_POLL_S):
            await asyncio.sleep(pause_s)  # first of all the file is written
            if await self._is_in_force(generation):
                return

    async def _is_in_force(self, generation: int) -> bool:
        try:
            return int((await self.admin.runtime()).get(GENERATION, 0)) >= generation
        except ServerUnreachable:
            return True  # the next Envoy begins with the file
        except ServerTimeout:
            return False

    async def _under_way(self, models: Iterable[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        clusters = [f"{protocol}/{model}" for model in models for protocol in ("http", "grpc")]
        for cluster, count in (await self.admin.under_way(clusters)).items():
            model = cluster.partition("/")[2]
            found[model] = found.get(model, 0) + count
        return found

    def _set(self, percents: dict[str, float], model: str, percent: float) -> int:
        if percents.get(model, 0.0) != percent:
            percents[model] = percent
            self._change()
        return self._state.generation

    async def _replan(self, model: str, change: Callable[[ModelPlan], ModelPlan]) -> None:
        assert self._plan, "there is no plan yet"
        models = [change(each) if each.name == model else each for each in self._plan.models]
        if (changed := tuple(models)) != self._plan.models:
            await self.apply(replace(self._plan, models=changed))

    def _change(self) -> None:
        """Has the file written as soon as whoever is at it now has finished: many changes, once."""
        if not self._write_is_due:
            self._write_is_due = True
            self._state.generation += 1
            asyncio.get_running_loop().call_soon(self._write)

    def _write(self) -> None:
        self._write_is_due = False
        if self._plan is None:
            return  # apply() writes it
        residency = self._state.frozen()
        try:
            # The record first: Envoy must never show a generation that was forgotten.
            files.write(self._folder / _RECORD, files.encode(asdict(residency)))
            content = files.encode(resources.residency_file(self._plan, residency))
            files.write(self._folder / resources.RESIDENCY_FILE, content)
        except OSError:
            _log.exception("cannot write residency, trying again in_s=%g", _RETRY_S)
            asyncio.get_running_loop().call_later(_RETRY_S, self._change)


def _remembered(record: Path) -> _State:
    try:
        told: dict[str, Any] = json.loads(files.read(record) or b"{}")
        return _State(**told)
    except (ValueError, TypeError):  # of another release: models are published anew
        return _State()
