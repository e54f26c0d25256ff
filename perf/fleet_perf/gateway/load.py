"""Clients that ask as fast as they can: one process of them, and how it is told what to do.

``python -m fleet_perf.gateway.load`` reads a LoadOrder as JSON on standard input and leaves what it
has seen in a file. Its own interpreter is what limits it, so there are several such processes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy

from fleet_perf.analyzer import Protocol as Wire
from fleet_perf.gateway.calls import GrpcCaller, HttpCaller, Outcome, caller, same_answer
from fleet_perf.inputs import Tensor

Pattern = Literal["zipf", "round-robin"]
WRONG_ANSWER = "the answer of another model"
PAUSE_AFTER_ERROR_S = 0.02
"""A client that fails at once would else do nothing but fail."""


@dataclass(frozen=True, slots=True)
class LoadOrder:
    """What one process of clients does."""

    wire: Wire
    address: str
    clients: int
    models: tuple[str, ...]
    answers: tuple[str, ...]
    """The tensor that each model answers, in hexadecimal."""
    row: str
    """What each of them is asked, in hexadecimal."""
    pattern: Pattern
    seed: int
    until_s: float
    """On the clock that all processes of this machine share."""
    output: str

    def as_json(self) -> str:
        """For standard input."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> LoadOrder:
        """What ``as_json`` has made."""
        fields = json.loads(text)
        return LoadOrder(
            **{**fields, "models": tuple(fields["models"]), "answers": tuple(fields["answers"])}
        )


class Record:
    """Every request of one process, a few bytes each."""

    def __init__(self) -> None:
        self._ended_s, self._latency_s = array("d"), array("f")
        self._cold, self._error = array("B"), array("H")
        self._errors: dict[str, int] = {"": 0}

    def add(self, begun_s: float, ended_s: float, outcome: Outcome) -> None:
        """One request and what came of it."""
        self._ended_s.append(ended_s)
        self._latency_s.append(ended_s - begun_s)
        self._cold.append(outcome.cold)
        self._error.append(self._errors.setdefault(outcome.error, len(self._errors)))

    def save(self, path: Path) -> None:
        """As arrays; ``replies.read`` reads them."""
        numpy.savez(
            path,
            ended_s=numpy.asarray(self._ended_s),
            latency_s=numpy.asarray(self._latency_s),
            cold=numpy.asarray(self._cold, dtype=bool),
            error=numpy.asarray(self._error),
            errors=numpy.asarray(list(self._errors), dtype=str),
        )


async def run(order: LoadOrder) -> Record:
    """All clients of one process, until their time is over."""
    record, chooser = Record(), random.Random(order.seed)
    seeds = [chooser.random() for _ in range(order.clients)]
    await asyncio.gather(*(_client(order, record, random.Random(seed)) for seed in seeds))
    return record


async def _client(order: LoadOrder, record: Record, chooser: random.Random) -> None:
    raw = bytes.fromhex(order.row)
    tensors = [Tensor("ids", "INT64", (1, len(raw) // 8), raw)]
    answers = dict(zip(order.models, map(bytes.fromhex, order.answers), strict=True))
    async with caller(order.wire, order.address, order.models, tensors) as asking:
        for model in choices(order.models, order.pattern, chooser):
            if time.monotonic() >= order.until_s:
                return
            if not await _one(asking, model, answers[model], record):
                await asyncio.sleep(PAUSE_AFTER_ERROR_S)


async def _one(asking: HttpCaller | GrpcCaller, model: str, wanted: bytes, record: Record) -> bool:
    begun_s = time.monotonic()
    outcome = await asking.ask(model)
    if not outcome.error and not same_answer(outcome.output, wanted):
        outcome = Outcome(WRONG_ANSWER)
    record.add(begun_s, time.monotonic(), outcome)
    return not outcome.error


def choices(models: tuple[str, ...], pattern: Pattern, chooser: random.Random) -> Iterator[str]:
    """Which model one client asks, without end."""
    if pattern == "round-robin":
        start = chooser.randrange(len(models))
        return itertools.islice(itertools.cycle(models), start, None)
    weights = list(itertools.accumulate(1 / rank for rank in range(1, len(models) + 1)))
    return (chooser.choices(models, cum_weights=weights)[0] for _ in itertools.repeat(None))


def main() -> None:
    """Does what standard input says."""
    order = LoadOrder.from_json(sys.stdin.read())
    asyncio.run(run(order)).save(Path(order.output))


if __name__ == "__main__":
    main()
