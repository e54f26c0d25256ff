"""A tritonserver that lives as long as a build, and has every model for a moment.

Started by the first proof. A server on which a model has failed is not asked again: what a crash, a
hanging load or a dead process has left in it would be blamed on the next model.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import shutil
import signal
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

from repo_builder.causes import last_lines
from repo_builder.scratch.folders import lay_out, remove
from repo_builder.scratch.loop import LoopThread
from repo_builder.scratch.order import Proof, ProofOrder
from repo_builder.scratch.trial import Limits, Trial, WrongAnswer
from tritonfleet.errors import (
    FleetError,
    LaunchError,
    LauncherUnavailable,
    LoadFailed,
    ProofFailed,
    ServerTimeout,
    ServerUnreachable,
)
from tritonfleet.launchers import logs
from tritonfleet.launchers.base import Launcher, LaunchOptions, RunningServer
from tritonfleet.launchers.embedded import EmbeddedLauncher
from tritonfleet.server.client import InferenceRefused, TritonClient
from tritonfleet.settings import OnnxruntimeBackend

log = logging.getLogger(__name__)
_TAIL_LINES = 20
# The guard collects the model processes before it tells of the server's end.
_DEATH_IS_TOLD_S = 15.0
_UNLOAD_TIMEOUT_S = 30.0
# Models inside tritonserver are gone within this; those with a process take Triton a second, for
# which the next one waits only if it has a process, too: what two share is neither's to weigh.
_UNLOAD_PATIENCE_S = 0.2
_OFF = "'export.proof: off' publishes without this proof."
# What Triton says of models that this machine cannot run and another may.
_NOT_HERE = {
    "unable to find backend library": "this tritonserver lacks its backend",
    "no GPUs are available": "it wants a GPU, and this machine has none",
    "unsupported gpu id": "it wants a GPU that this machine lacks",
}


class ScratchServer:
    """Proves models one after the other; use it in a ``with``."""

    def __init__(
        self,
        folder: Path,
        state_dir: Path,
        *,
        launcher: Launcher | None = None,
        onnxruntime_backend: OnnxruntimeBackend = "auto",
        load_timeout_s: float = 300.0,
        infer_timeout_s: float = 300.0,
    ) -> None:
        self._repository, self._state_dir = folder / "scratch", state_dir
        self._launcher = launcher or EmbeddedLauncher()
        self._onnxruntime_backend = onnxruntime_backend
        self._limits = Limits(load_timeout_s, infer_timeout_s)
        self._loop: LoopThread | None = None
        self._session: _Session | None = None
        self._unavailable: str | None = None

    def __enter__(self) -> ScratchServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._loop is None:
            return
        try:
            self._loop.cancel_runs()
            self._loop.run(self._discard())
        finally:
            self._loop.close()
            self._loop = None

    def prove(self, order: ProofOrder) -> Proof:
        """What the server did with the model; ProofFailed when that is not what it should.

        A model that this machine cannot run at all is not proved, and ``warning`` says why.
        """
        if order.proof == "off":
            return Proof()
        if self._unavailable is None:
            if self._loop is None:
                self._loop = LoopThread("scratch-server")
            try:
                return self._loop.run(self._prove(order))
            except LauncherUnavailable as error:
                self._unavailable = f"not proved in a tritonserver: {error}"
        return Proof(warning=self._unavailable)

    async def _prove(self, order: ProofOrder) -> Proof:
        session = await self._usable(order)
        try:
            return await self._attempt(session, order)
        except ProofFailed:
            # Died of this model, or of what another has left? A fresh server will tell.
            if not session.died or session.proofs == 1:
                raise
        return await self._attempt(await self._usable(order), order)

    async def _attempt(self, session: _Session, order: ProofOrder) -> Proof:
        try:
            return await session.prove(order)
        finally:
            if session.spoilt:
                await self._discard()

    async def _usable(self, order: ProofOrder) -> _Session:
        if self._session is not None and not await self._session.ready_for(order):
            await self._discard()
        if self._session is None:
            self._session = await self._start(order.model)
        return self._session

    async def _start(self, model: str) -> _Session:
        shutil.rmtree(self._repository, ignore_errors=True)
        self._repository.mkdir(parents=True)
        # Several builds may share a state folder, and each has a server of its own.
        place = hashlib.sha256(str(self._repository.resolve()).encode()).hexdigest()[:8]
        options = LaunchOptions(
            f"scratch-{place}",
            self._repository,
            self._state_dir,
            onnxruntime_backend=self._onnxruntime_backend,
        )
        try:
            server = await self._launcher.start(options)
        except LauncherUnavailable:
            raise
        except (LaunchError, ServerTimeout) as error:
            cause = f"the scratch server that should prove it does not start: {error}"
            raise ProofFailed(model, cause, _OFF) from error
        return _Session(server, self._repository, self._limits)

    async def _discard(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None  # only now: an interrupted end has to be begun anew


class _Session:
    """One running server, and the models that are leaving it."""

    def __init__(self, server: RunningServer, repository: Path, limits: Limits) -> None:
        self._server, self._repository, self._limits = server, repository, limits
        self._client = TritonClient(server.name, server.endpoint)
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self.proofs = 0
        """How many models it has met, the present one included."""
        self.died = False
        self.spoilt = False
        """Whether it must not be asked again."""

    async def ready_for(self, order: ProofOrder) -> bool:
        """Whether the server can take a model; waits for those to be gone that must not be here."""
        names = {order.model, *order.members} if self._inside(order) else set(self._leaving)
        leaving = [task for name, task in self._leaving.items() if name in names]
        await asyncio.gather(*leaving, return_exceptions=True)
        return not self.spoilt and self._server.poll() is None

    def _inside(self, order: ProofOrder) -> bool:
        """Whether a model will have no process of its own, and so shares no pages with others."""
        backend = order.config.backend or order.config.platform
        native = self._server.events is not None and backend.startswith("onnxruntime")
        return native or bool(order.members)

    async def prove(self, order: ProofOrder) -> Proof:
        """One model, loaded, asked and unloaded."""
        self.proofs += 1
        log_start = _size(self._server.log_file)
        names = lay_out(order, self._repository)
        trial = Trial(order, self._server, self._client, self._limits)
        self.spoilt = True  # until it has ended well
        try:
            proof = await trial.run()
            trial.doing = "unloading it"
            await self._unload(names)
        except (FleetError, WrongAnswer) as error:
            unable = _unable(error)
            if unable is None:
                raise await self._explained(order, trial, error, log_start) from error
            proof = Proof(warning=f"not proved in a tritonserver: {unable}")
        self.spoilt = bool(order.members) and proof.record is None  # its members may be loaded
        return proof

    async def close(self) -> None:
        """Ends the server with all that is in it."""
        for task in self._leaving.values():
            task.cancel()
        with contextlib.suppress(FleetError):
            await self._client.close()
        await self._server.stop(0)

    # -- unloading ---------------------------------------------------------------------------

    async def _unload(self, names: Iterable[str]) -> None:
        tasks = []
        for name in names:
            await self._client.unload(name)
            self._leaving[name] = asyncio.create_task(self._leave(name), name=name)
            self._leaving[name].add_done_callback(self._note_departure)
            tasks.append(self._leaving[name])
        done, _ = await asyncio.wait(tasks, timeout=_UNLOAD_PATIENCE_S)
        for task in done:
            task.result()

    async def _leave(self, name: str) -> None:
        """Waits until a model is gone, and clears up after it."""
        await asyncio.wait_for(self._client.until_unloaded(name), _UNLOAD_TIMEOUT_S)
        remove(name, self._repository)

    def _note_departure(self, task: asyncio.Task[None]) -> None:
        name = task.get_name()
        self._leaving.pop(name, None)
        if not task.cancelled() and task.exception() is not None:
            self.spoilt = True
            log.warning("model=%s did not leave the scratch server: %r", name, task.exception())

    # -- explaining --------------------------------------------------------------------------

    async def _explained(
        self, order: ProofOrder, trial: Trial, error: Exception, log_start: int
    ) -> ProofFailed:
        """The same failure in the builder's words, with what the server wrote meanwhile."""
        if isinstance(error, ProofFailed):
            return error
        if isinstance(error, ServerUnreachable):
            self.died, cause = True, f"tritonserver {await self._ending()} while {trial.doing}"
        elif isinstance(error, ServerTimeout):
            cause = f"tritonserver is not done after {error.timeout_s:g} s with {trial.doing}"
        elif isinstance(error, LoadFailed):
            cause = f"tritonserver does not load it: {error.reason.strip().rstrip('.;')}"
        else:
            cause = f"tritonserver fails {trial.doing}: {_said(error)}"
        return ProofFailed(order.model, cause, f"{_advice(trial, error)}{self._tail(log_start)}")

    async def _ending(self) -> str:
        try:
            status = await asyncio.wait_for(self._server.wait(), _DEATH_IS_TOLD_S)
        except asyncio.TimeoutError:
            return "stopped answering"
        if status >= 0:
            return f"exited with status {status}"
        return f"died of {signal.Signals(-status).name}"

    def _tail(self, start: int) -> str:
        path = self._server.log_file
        if path is None:
            return ""
        tail = last_lines(logs.tail(path, _TAIL_LINES, start))
        return f"\nThe end of {path}:\n{tail}" if tail else ""


def _size(path: Path | None) -> int:
    return path.stat().st_size if path and path.exists() else 0


def _unable(error: Exception) -> str | None:
    """Why this machine cannot run the model at all; None when it is the model's own failure."""
    if not isinstance(error, LoadFailed):
        return None
    known = (why for sign, why in _NOT_HERE.items() if sign in error.reason)
    why = next(known, None)
    return why and f"{why} ({error.reason.strip().rstrip('.;')})"


def _said(error: Exception) -> str:
    """Triton's reason without the traceback that the python backend hangs onto it."""
    reason = error.reason if isinstance(error, InferenceRefused) else str(error)
    return reason.split("\n\nAt:", 1)[0].strip().rstrip(".;")


def _advice(trial: Trial, error: Exception) -> str:
    if isinstance(error, WrongAnswer):
        return "Outside of Triton it passed: compare the versions of the runtime here and there."
    if isinstance(error, InferenceRefused) and trial.guessing:
        return (
            "The request was made up of zeros: name real inputs in 'export.examples', or set "
            "'export.proof: load'."
        )
    return _OFF
