"""A tritonserver in a container of a Docker engine, or of Podman.

Knows the order of a start, and when to adopt, replace or leave alone what is there. What the engine
is told is the recipe's to say; that nothing outlives us is seen to by a keeper (engine/keeper.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from tritonfleet.errors import LaunchError, LauncherUnavailable, PortTaken
from tritonfleet.launchers import logs
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.command import Invocation
from tritonfleet.launchers.container.plan import KEEPER_GRACE_S, Plan
from tritonfleet.launchers.container.site import LAUNCHER, Site
from tritonfleet.launchers.lock import locked
from tritonfleet.launchers.native import stop_listening
from tritonfleet.launchers.process import GuardedProcess
from tritonfleet.launchers.readiness import Ended, until_ready
from tritonfleet.launchers.rehearsal import rehearse
from tritonfleet.server.events import ModelEvents

log = logging.getLogger(__name__)
_PORT_ATTEMPTS = 5
_START_TIMEOUT_S = 120.0
_Result = TypeVar("_Result")


class ContainerServer:
    """A tritonserver in a container of ours, with its log."""

    def __init__(
        self,
        plan: Plan,
        invocation: Invocation,
        container: str,
        process: GuardedProcess,
        events: ModelEvents | None,
    ) -> None:
        self.name = plan.site.options.name
        self.container = plan.recipe.name
        """Its name, for 'docker inspect' and the like."""
        self.endpoint = plan.endpoint(invocation)
        self.log_file: Path | None = plan.site.log
        self.onnxruntime_backend: str | None = plan.backend
        self.events = events
        self._plan, self._id, self._process = plan, container, process

    def poll(self) -> int | None:
        """The exit status of tritonserver, negative for a signal; None while it runs."""
        return self._process.poll()

    async def wait(self) -> int:
        """The exit status, once the container is gone, or left to whoever adopts it."""
        status = await self._process.wait()
        self._close()
        return status

    async def stop(self, grace_s: float) -> None:
        """Ends the server and removes its container; requests in flight get ``grace_s`` seconds.

        A container that is to be kept is left as it is. Harmless afterwards.
        """
        if self.poll() is None and not self._plan.keeps:
            with contextlib.suppress(LaunchError):  # without an engine the keeper ends it
                await asyncio.to_thread(self._plan.end, self._id, grace_s)
        await self._process.stop(KEEPER_GRACE_S)
        if self._plan.keeps:
            log.info("container=%s is left as it is, for the next fleet", self.container)
        else:  # in case that its keeper was killed
            with contextlib.suppress(LaunchError):
                await asyncio.to_thread(self._plan.engine.remove, self._id)
        self._close()

    def log_tail(self, lines: int = 20) -> str:
        """The last lines that tritonserver and its models wrote."""
        return logs.tail(self._plan.site.log, lines)

    async def until_ready(self, instance: str, timeout_s: float) -> None:
        """Returns once it answers everywhere; ContainerFailed or PortTaken if it never will."""
        log_start = self._plan.log_size
        try:
            ready = until_ready(self.endpoint, instance, self.poll)
            await asyncio.wait_for(ready, timeout_s)
        except asyncio.TimeoutError:
            cause = f"it does not answer {timeout_s:g} s after its start"
            raise self._plan.failed(cause, log_start) from None
        except Ended:
            raise self._plan.ended(await self.wait(), log_start) from None
        with_pid = partial(self._plan.with_pid, self.endpoint, self._id, instance)
        self.endpoint = await asyncio.to_thread(with_pid)

    async def abandon(self) -> None:
        """Gives up watching, before anybody has relied on it."""
        await self._process.stop(KEEPER_GRACE_S)
        self._close()

    def _close(self) -> None:
        if self._plan.keeps and self.events:
            self.events.close()  # its folder is the container's as well
        else:
            stop_listening(self.events)


class ContainerLauncher:
    """Starts a tritonserver in a container; several at once are fine, each under its own name."""

    def __init__(self, start_timeout_s: float = _START_TIMEOUT_S) -> None:
        self._start_timeout_s = start_timeout_s

    async def start(self, options: LaunchOptions) -> ContainerServer:
        """A server that answers readiness, new or adopted.

        Raises LauncherUnavailable, EngineUnavailable, ImageMissing, EngineMismatch, PortTaken or
        ContainerFailed.
        """
        _check_sdk()
        site = await asyncio.to_thread(Site.of, options)
        async with locked(site.folder, LAUNCHER, options.name) as lock:
            plan = await asyncio.to_thread(_plan, site)
            await asyncio.to_thread(plan.clear_strays)
            adopted = await self._adopt(plan, lock)
            if adopted:
                return adopted
            await asyncio.to_thread(plan.clear)
            await asyncio.to_thread(logs.rotate, site.log)
            return await self._start_somewhere(plan, lock)

    async def _start_somewhere(self, plan: Plan, lock: int) -> ContainerServer:
        for _ in range(_PORT_ATTEMPTS):
            try:
                return await self._start(plan, lock)
            except PortTaken as error:
                if error.port in plan.fixed_ports.values():
                    raise
                lost = error  # free a moment ago, somebody else's now
        raise lost

    async def _start(self, plan: Plan, lock: int) -> ContainerServer:
        invocation = plan.new_invocation()
        events = await plan.listen()
        process = None
        try:
            # First, so that there is no moment in which nobody would remove the container.
            process = await plan.keeper(invocation, lock)
            container = await _seen_through(partial(plan.create, invocation))
            server = ContainerServer(plan, invocation, container, process, events)
            await _seen_through(partial(plan.start, container))
            await server.until_ready(invocation.instance, self._start_timeout_s)
            if events is not None:
                await rehearse(server.name, server.endpoint, events)
        except BaseException:
            await _tidy(plan, process, events)
            raise
        return server

    async def _adopt(self, plan: Plan, lock: int) -> ContainerServer | None:
        """The server of a container that was left for us; None where there is none that fits."""
        found = await asyncio.to_thread(plan.adoptable)
        if found is None:
            return None
        container, invocation = found
        events = await plan.listen()
        process = await plan.keeper(invocation, lock, since=time.time())
        server = ContainerServer(plan, invocation, container.id, process, events)
        try:
            await server.until_ready(invocation.instance, self._start_timeout_s)
        except LaunchError as error:
            log.warning("container=%s is replaced: %s", container.name, error)
            await server.abandon()
            return None
        except BaseException:
            await server.abandon()
            raise
        log.info("container=%s is adopted", container.name)
        return server


def _check_sdk() -> None:
    if importlib.util.find_spec("docker") is None:
        raise LauncherUnavailable(
            LAUNCHER,
            "the package 'docker' is not installed",
            "Install it with: pip install 'tritonfleet[container]'",
        )


def _plan(site: Site) -> Plan:
    from tritonfleet.launchers.engine.client import Engine  # needs the SDK, which may be missing

    return Plan.of(site, Engine.connect(site.options.container.engine))


async def _tidy(plan: Plan, process: GuardedProcess | None, events: ModelEvents | None) -> None:
    """Leaves nothing of a start that failed."""
    if process:
        await process.stop(KEEPER_GRACE_S)
    with contextlib.suppress(LaunchError):
        await _seen_through(plan.clear)
    stop_listening(events)


async def _seen_through(call: Callable[[], _Result]) -> _Result:
    """Runs it on a thread, to its end even when cancelled: the engine would go on anyway."""
    running = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
