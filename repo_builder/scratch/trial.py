"""One model in a running scratch server: loaded, asked, compared, weighed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from repo_builder.judging.gates import Difference, Gate, Tally
from repo_builder.judging.reference import Array
from repo_builder.scratch.order import Proof, ProofOrder
from repo_builder.scratch.questions import Question, made_up, questions, uncompared
from tritonfleet.launchers.base import RunningServer
from tritonfleet.server.client import TritonClient
from tritonfleet.server.inference import answer_tensors
from tritonfleet.server.layout import Footprint, ProofRecord
from tritonfleet.server.memory import instance_memory_bytes

# Triton may crash when a model that nobody asked is unloaded sooner than this after its load.
_LOAD_SETTLES_S = 0.1
# The native backend looks at a model's memory ten times a second at most, after a run.
_MEMORY_IS_TOLD_S = 0.11
_DATAGRAM_ARRIVES_S = 0.02


class WrongAnswer(Exception):
    """An answer that is out of bounds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each step may take."""

    load_s: float
    infer_s: float


@dataclass(frozen=True, slots=True)
class _Weight:
    """What all instances hold, and whether in processes of their own."""

    bytes: int
    apart: bool


class Trial:
    """One order. ``doing`` says where it is, for whoever has to explain its failure."""

    def __init__(
        self, order: ProofOrder, server: RunningServer, client: TritonClient, limits: Limits
    ) -> None:
        self._order, self._server, self._client = order, server, client
        self._limits = limits
        self.doing = "loading it"
        self.guessing = False
        """Whether it is being asked something that the model may rightly refuse."""

    async def run(self) -> Proof:
        """What was found. The model stays loaded. Whatever the server refuses passes through."""
        order = self._order
        asked = questions(order) if order.proof == "infer" else ()
        start = time.perf_counter()
        await self._client.load(order.model, self._limits.load_s)
        load_s = time.perf_counter() - start
        weights = await self._weigh()
        self.guessing = made_up(order)
        worst = await self._ask_all(asked)
        self.guessing = False
        peak = await self._weigh()
        record = ProofRecord(
            server=await self._describe(),
            load_s=round(load_s, 3),
            batch_sizes=tuple(dict.fromkeys(question.batch_size for question in asked)),
            worst=worst,
        )
        reason = uncompared(order) if asked else None
        warning = reason and f"answers in tritonserver were not compared: {reason}"
        return Proof(record, self._footprint(weights, peak, asked), warning)

    # -- asking ------------------------------------------------------------------------------

    async def _ask_all(self, asked: tuple[Question, ...]) -> float | None:
        """The worst difference from the original's answers; None where nothing was compared."""
        if not asked:
            await asyncio.sleep(_LOAD_SETTLES_S)
            return None
        found = [await self._ask(question) for question in asked]
        await self._fill(asked)
        return max((each for each in found if each is not None), default=None)

    async def _ask(self, question: Question) -> float | None:
        self.doing = f"answering {_described(question, self._order)}"
        if self._order.config.model_transaction_policy.decoupled:
            await self._client.stream(question.request, self._limits.infer_s)
            return None
        answer = await self._client.infer(question.request, self._limits.infer_s)
        if not question.expected or self._order.gate is None:
            return None
        return _compare(self._order.gate, question.expected, answer_tensors(answer))

    async def _fill(self, asked: tuple[Question, ...]) -> None:
        """Brings memory to what the fleet will see: every instance busy with the largest batch."""
        config, largest = self._order.config, asked[-1]
        decoupled = config.model_transaction_policy.decoupled
        if instance_count(config) > 1 and not decoupled and not _keeps_sequences(config):
            self.doing = f"answering {_described(largest, self._order)} in every instance at once"
            calls = [
                self._client.infer(largest.request, self._limits.infer_s)
                for _ in range(instance_count(config))
            ]
            await asyncio.gather(*calls)
        if self._told() is not None:
            await asyncio.sleep(_MEMORY_IS_TOLD_S)
            await self._client.infer(asked[0].request, self._limits.infer_s)
            await asyncio.sleep(_DATAGRAM_ARRIVES_S)

    # -- weighing ----------------------------------------------------------------------------

    def _told(self) -> int | None:
        events = self._server.events
        return events.bytes_of(self._order.model) if events else None

    async def _weigh(self) -> _Weight | None:
        told = self._told()
        if told is not None:
            return _Weight(told, apart=False)
        pid = self._server.endpoint.pid
        if pid is None:
            return None
        found = await asyncio.to_thread(instance_memory_bytes, pid, self._order.model)
        # An instance that happened to get no request will take as much as its siblings.
        return _Weight(max(found) * len(found), apart=True) if found else None

    def _footprint(
        self, weights: _Weight | None, peak: _Weight | None, asked: tuple[Question, ...]
    ) -> Footprint | None:
        if weights is None or peak is None:
            return None
        return Footprint(
            weights_bytes=weights.bytes,
            peak_bytes=max(weights.bytes, peak.bytes),
            instances=instance_count(self._order.config),
            shared_weights=not peak.apart,
            home="process" if peak.apart else "server",
            batch_size=max((question.batch_size for question in asked), default=0),
        )

    async def _describe(self) -> str:
        """Name and version, and what ran the model."""
        config = self._order.config
        backend = config.backend or config.platform
        runs = f"{backend} backend"
        if backend.startswith("onnxruntime") and self._server.onnxruntime_backend:
            runs = self._server.onnxruntime_backend
        release = f"tritonserver {await self._client.version()}"
        return release if backend == "ensemble" else f"{release}, {runs}"


def instance_count(config: Any) -> int:
    """How many instances a configuration asks for, on all devices together."""
    groups = config.instance_group
    return sum(max(group.count, 1) * max(len(group.gpus), 1) for group in groups) or 1


def _keeps_sequences(config: Any) -> bool:
    # Two requests at once that both start and end the same sequence are no sequence.
    return bool(config.HasField("sequence_batching"))


def _described(question: Question, order: ProofOrder) -> str:
    batched = order.config.max_batch_size > 0
    return f"a request of batch size {question.batch_size}" if batched else "a request"


def _compare(gate: Gate, expected: Mapping[str, Array], got: Mapping[str, Array]) -> float:
    tally = Tally(gate)
    for name, reference in expected.items():
        if name not in got:
            raise WrongAnswer(f"output '{name}' is missing")
        try:
            tally.judge(name, "tritonserver", reference, got[name])
        except Difference as error:
            raise WrongAnswer(f"output '{name}' {error}") from None
    return tally.worst
