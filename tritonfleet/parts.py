"""The processes of a fleet, each as something that is started, waited for and stopped.

What a part needs from its neighbours it asks for when it starts, so that a restarted one gets what
holds then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tritonfleet import plugins
from tritonfleet.errors import BrainFailed, LauncherUnavailable
from tritonfleet.gateway.envoy import handover
from tritonfleet.gateway.envoy.admin import Admin
from tritonfleet.gateway.envoy.process import EnvoyOptions, EnvoyProcess
from tritonfleet.launchers.base import LaunchOptions, RunningServer
from tritonfleet.orders import (
    ORDER,
    REPORT,
    WISH,
    Failed,
    Order,
    ServerBack,
    ServerLink,
    ServerLost,
    Stop,
    Wish,
)
from tritonfleet.spec import ServerSpec

if TYPE_CHECKING:
    from tritonfleet.brain import Brain

log = logging.getLogger(__name__)
BRAIN_START_TIMEOUT_S = 120.0
_STOP_MARGIN_S = 10.0
"""A brain that has not ended so long after its grace is stuck."""
ATTACHED_TIMEOUT_S = 60.0
_ATTACHED_POLL_S = 0.2
_ATTACHED_SAID_AFTER_S = 5.0
_ATTACHED_GONE_AFTER_S = 10.0
"""It answers nobody for seconds while it takes in the files of thousands of models."""
ATTACHED_LOST = 1
"""In place of the exit status, which is not ours to know."""
# As the console script would, with this very interpreter.
_BRAIN = "from tritonfleet.brain_process import main; main()"


class Part(Protocol):
    """One process of a fleet."""

    @property
    def name(self) -> str:
        """What logs call it."""
        ...

    @property
    def attached(self) -> bool:
        """Whether somebody else runs it: once lost it is waited for."""
        ...

    async def start(self) -> None:
        """Starts it, for the first time or again; FleetError when that fails."""
        ...

    async def wait(self) -> int:
        """Returns the exit status once it has ended."""
        ...

    async def lost(self) -> None:
        """Tells whom it concerns that it has ended."""
        ...

    async def stop(self, grace_s: float) -> None:
        """Ends it; requests under way get ``grace_s`` seconds. Harmless when it does not run."""
        ...

    def log_tail(self, lines: int) -> str:
        """The last lines that it wrote, where they are known."""
        ...


class BrainPart(Part, Protocol):
    """The brain, wherever it runs."""

    async def server_lost(self, name: str) -> None:
        """A tritonserver has died."""
        ...

    async def server_back(self, link: ServerLink) -> None:
        """A tritonserver runs again, empty."""
        ...


class Tritonserver:
    """One tritonserver; the brain learns when it dies and when it is back."""

    def __init__(self, spec: ServerSpec, options: LaunchOptions) -> None:
        self.name, self._spec, self._options = f"server '{spec.name}'", spec, options
        self.running: RunningServer | None = None
        self.brain: BrainPart | None = None
        """Once there is one."""

    @property
    def attached(self) -> bool:
        """Whether only its address is ours to know."""
        return self._spec.launcher == "external"

    @property
    def link(self) -> ServerLink | None:
        """What the brain must know of it; None while it is down."""
        if self.running is None:
            return None
        events = self.running.events
        return ServerLink(self._spec.name, self.running.endpoint, events.path if events else None)

    async def start(self) -> None:
        """Launches it."""
        launcher = plugins.lookup("launchers", self._spec.launcher)()
        self.running = await launcher.start(self._options)
        if self.running and self.running.events:
            self.running.events.close()  # the brain listens there from now on
        if self.brain and self.link:
            await self.brain.server_back(self.link)

    async def wait(self) -> int:
        """Its exit status, once it and all its models' processes have ended."""
        assert self.running
        return await self.running.wait()

    async def lost(self) -> None:
        """Tells the brain."""
        self.running = None
        if self.brain:
            await self.brain.server_lost(self._spec.name)

    async def stop(self, grace_s: float) -> None:
        """Ends it; requests under way get ``grace_s`` seconds."""
        if self.running:
            await self.running.stop(grace_s)

    def log_tail(self, lines: int) -> str:
        """The last lines that it and its models wrote."""
        return self.running.log_tail(lines) if self.running else ""


class BrainHere:
    """The brain on this very event loop, for tests and for programs that embed a fleet."""

    name = "brain"
    attached = False

    def __init__(self, order: Callable[[], Order]) -> None:
        self._order = order
        self.brain: Brain

    async def start(self) -> None:
        """Builds it and joins its parts."""
        from tritonfleet.brain import Brain  # heavy, and a process of its own has no use for it

        self.brain = Brain(self._order())
        await self.brain.start()

    async def wait(self) -> int:
        """Never returns: it ends with its process."""
        forever: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        return await forever

    async def lost(self) -> None:
        """Nobody is left to be told."""

    async def server_lost(self, name: str) -> None:
        """A tritonserver has died."""
        await self.brain.server_lost(name)

    async def server_back(self, link: ServerLink) -> None:
        """A tritonserver runs again, empty."""
        await self.brain.server_back(link)

    async def stop(self, grace_s: float) -> None:
        """Lets its requests finish."""
        if hasattr(self, "brain"):
            await self.brain.stop(grace_s)

    def log_tail(self, lines: int) -> str:
        """Nothing: it writes to our own log."""
        return ""


class BrainChild:
    """The brain as a process of its own: Envoy and the tritonservers do not notice its death."""

    name = "brain"
    attached = False

    def __init__(self, order: Callable[[], Order]) -> None:
        self._order = order
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None before the first start."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Starts it, and returns once its sockets are open and Envoy's files are written."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", _BRAIN,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Ctrl-C in the terminal is for us, who have Envoy drained first.
            start_new_session=True,
        )  # fmt: skip
        try:
            self._say(ORDER.write(self._order()))
            await asyncio.wait_for(self._until_ready(), BRAIN_START_TIMEOUT_S)
        except BaseException:
            await self._kill()
            raise

    async def wait(self) -> int:
        """Its exit status, negative for a signal."""
        assert self._process
        return await self._process.wait()

    async def lost(self) -> None:
        """Nobody needs to be told: Envoy finds the activator's sockets closed."""

    async def server_lost(self, name: str) -> None:
        """A tritonserver has died."""
        self._wish(ServerLost(name))

    async def server_back(self, link: ServerLink) -> None:
        """A tritonserver runs again, empty."""
        self._wish(ServerBack(link))

    async def stop(self, grace_s: float) -> None:
        """Lets its requests finish; kills it when it is stuck."""
        if self._process is None or self._process.returncode is not None:
            return
        self._wish(Stop(grace_s))
        try:
            await asyncio.wait_for(self.wait(), grace_s + _STOP_MARGIN_S)
        except asyncio.TimeoutError:
            await self._kill()

    def log_tail(self, lines: int) -> str:
        """Nothing: it writes to our own standard error."""
        return ""

    async def _until_ready(self) -> None:
        assert self._process and self._process.stdout
        line = await self._process.stdout.readline()
        if not line:
            status = await self._process.wait()
            raise BrainFailed(f"the brain ended with status {status} before it was ready")
        report = REPORT.read(line)
        if isinstance(report, Failed):
            raise BrainFailed(report.cause)

    def _wish(self, wish: Wish) -> None:
        # While it is down there is nobody to tell; the next order will say all.
        if self._process is not None and self._process.returncode is None:
            self._say(WISH.write(wish))

    def _say(self, line: bytes) -> None:
        assert self._process and self._process.stdin
        if not self._process.stdin.is_closing():
            self._process.stdin.write(line)

    async def _kill(self) -> None:
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


class EnvoyProxy:
    """Envoy, started with the files that the brain has written; a new one takes what is there."""

    name = "envoy"
    attached = False

    def __init__(self, options: Callable[[], EnvoyOptions]) -> None:
        self._options = options
        self.running: EnvoyProcess | None = None

    async def start(self) -> None:
        """Starts it, and returns once it listens and routes."""
        self.running = await EnvoyProcess.start(self._options())

    async def wait(self) -> int:
        """Its exit status, once it has ended."""
        assert self.running
        return await self.running.wait()

    async def lost(self) -> None:
        """Closes what led to it. Nobody needs to be told: the brain writes its files anyway."""
        await self.stop(0)

    async def stop(self, grace_s: float) -> None:
        """Ends it; requests under way get ``grace_s`` seconds."""
        if self.running:
            await self.running.stop(grace_s)

    def log_tail(self, lines: int) -> str:
        """The last lines that it wrote."""
        return self.running.log_tail(lines) if self.running else ""


class AttachedEnvoy:
    """An Envoy that ``tritonfleet envoy`` runs, with the files that the brain has written.

    It outlives the fleet: what is resident goes on answering until the next fleet takes over.
    """

    name = "envoy"
    attached = True

    def __init__(
        self, options: Callable[[], EnvoyOptions], timeout_s: float = ATTACHED_TIMEOUT_S
    ) -> None:
        self._options, self._timeout_s = options, timeout_s
        self._admin: Admin | None = None

    async def start(self) -> None:
        """Says what is wanted, and returns once it listens and routes."""
        await self.lost()
        options = self._options()
        wanted = handover.Wanted.of(options)
        handover.want(options.folder, wanted)
        self._admin = Admin(options.admin)
        await self._until_ready(self._admin, wanted)

    async def wait(self) -> int:
        """Returns once it has not answered for some seconds."""
        loop = asyncio.get_running_loop()
        answered = loop.time()
        while loop.time() - answered < _ATTACHED_GONE_AFTER_S:
            if self._admin and await self._admin.ready():
                answered = loop.time()
            await asyncio.sleep(_ATTACHED_POLL_S)
        return ATTACHED_LOST

    async def lost(self) -> None:
        """Closes what led to it."""
        if self._admin:
            await self._admin.close()

    async def stop(self, grace_s: float) -> None:
        """Leaves it alone."""
        await self.lost()

    def log_tail(self, lines: int) -> str:
        """Nothing: whoever runs it tells why it ended."""
        return ""

    async def _until_ready(self, admin: Admin, wanted: handover.Wanted) -> None:
        loop = asyncio.get_running_loop()
        started, said = loop.time(), False
        while True:
            told = handover.reported(wanted.folder)
            current = told if told and told.wanted == wanted else None
            if current and not current.cause and await admin.ready():
                return
            waited_s = loop.time() - started
            if waited_s >= self._timeout_s:
                raise _not_attached(wanted, current.cause if current else "", self._timeout_s)
            if waited_s >= _ATTACHED_SAID_AFTER_S and not said:
                log.warning("waiting for 'tritonfleet envoy' at %s", wanted.folder.parent)
                said = True
            await asyncio.sleep(_ATTACHED_POLL_S)


def _not_attached(wanted: handover.Wanted, cause: str, timeout_s: float) -> LauncherUnavailable:
    because = f": {cause}" if cause else ""
    return LauncherUnavailable(
        "envoy",
        f"the attached Envoy has not been ready within {timeout_s:g} s{because}",
        f"Run 'tritonfleet envoy --state-dir {wanted.folder.parent}' as the same user, with that "
        "folder at that very path, or leave attached_envoy out.",
    )
