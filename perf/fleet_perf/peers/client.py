"""Sends the job's requests to one system and keeps what came of them."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import numpy

from fleet_perf.peers.job import IDS_PER_ROW, Job
from fleet_perf.peers.processes import last_words
from fleet_perf.peers.systems import Running
from tritonfleet.errors import PerfError, ServerExited, Unstable

START_TIMEOUT_S = 180.0
REQUEST_TIMEOUT_S = 120.0
_POLL_S = 0.1
_ROWS = 64
_ERROR_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class Reply:
    """One request and its outcome."""

    model: str
    latency_s: float
    absent: bool
    """The model was not in memory when the request came, or not yet."""
    error: str | None = None


class RequestFailed(PerfError):
    """A system gave an error where only answers make a measurement."""

    def __init__(self, system: str, reply: Reply) -> None:
        super().__init__(system, reply)
        self.system, self.reply = system, reply

    def __str__(self) -> str:
        return f"{self.system} failed on {self.reply.model}: {self.reply.error}"


class Client:
    """Connections to one system, kept open; use it as a context."""

    def __init__(self, running: Running, job: Job) -> None:
        self.running = running
        self._rows = _rows(job)
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=600.0),
            timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S),
            # Else aiohttp asks for compressed answers, and Triton compresses each of them.
            headers={"Accept-Encoding": "identity"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def ask(self, model: str) -> Reply:
        """One row for a model; errors are replies, too."""
        dialect = self.running.dialect
        request = dialect.request(model, next(self._rows))
        url = self.running.url + request.path
        begun = time.perf_counter()
        try:
            async with self._session.post(
                url, data=request.body, headers=request.headers
            ) as answer:
                content = await answer.read()
                latency_s = time.perf_counter() - begun
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            cause = f"{type(error).__name__}: {error}"
            return Reply(model, time.perf_counter() - begun, False, cause)
        if answer.status != 200:
            text = content.decode(errors="replace")[:_ERROR_CHARACTERS]
            return Reply(model, latency_s, False, f"{answer.status} {text}")
        return Reply(model, latency_s, dialect.was_absent(answer.headers, content))

    async def ask_all(self, models: Sequence[str], clients: int = 1) -> list[Reply]:
        """One request after the other, by so many clients at once; in the order of the answers."""
        waiting = iter(models)  # shared: each client takes the next
        replies: list[Reply] = []

        async def client() -> None:
            for model in waiting:
                replies.append(await self.ask(model))

        await asyncio.gather(*(client() for _ in range(clients)))
        return replies

    async def must_answer(self, models: Sequence[str], clients: int = 1) -> list[Reply]:
        """The same; RequestFailed when one of them is an error."""
        replies = await self.ask_all(models, clients)
        for reply in replies:
            if reply.error is not None:
                raise RequestFailed(self.running.name, reply)
        return replies

    async def until_answers(self, model: str, folder: Path) -> None:
        """Waits for a system that has just been started.

        Raises ServerExited when it ends instead, Unstable when it never answers.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        reply = await self.ask(model)
        while reply.error is not None:
            if not self.running.tree.processes():
                raise ServerExited(self.running.name, -1, last_words(folder))
            if time.monotonic() > deadline:
                raise Unstable(self.running.name, f"it does not answer ({reply.error})")
            await asyncio.sleep(_POLL_S)
            reply = await self.ask(model)


def _rows(job: Job) -> Iterator[list[int]]:
    random = numpy.random.default_rng(job.seed)
    rows = random.integers(job.network.vocabulary, size=(_ROWS, IDS_PER_ROW))
    return itertools.cycle(rows.tolist())
