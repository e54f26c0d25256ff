"""Many clients ask every model in turn, as happens when memory is short.

Sends the requests and sorts the answers into kinds; what the figures are compared with is
promises.py's.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleet_perf.fleet import Answer, RunningFleet
from fleet_perf.inputs import Tensor, callable_by_requests, make_inputs
from fleet_perf.warm import Say
from tritonfleet.talk import Refused

KINDS = ("warm", "cold", "cold, nobody evicted", "cold, others evicted")
# The control API tells the age of a decision to a tenth of a second.
_DECISION_ROUNDING_S = 0.1


@dataclass(frozen=True, slots=True)
class Reply:
    """One request of a round, and when its answer was complete."""

    model: str
    answer: Answer
    ended_at: float
    """On the clock of ``time.monotonic``."""


@dataclass(frozen=True, slots=True)
class Eviction:
    """A decision to bring a model in: when, and whether others had to go."""

    model: str
    at: float
    evicted: tuple[str, ...]


async def requests_for_all(fleet: RunningFleet, say: Say) -> dict[str, list[Tensor]]:
    """One valid request for every model that is built and can be asked by a single one."""
    made = {}
    for model in await fleet.names():
        try:
            config = await fleet.config(model)
        except Refused as error:
            say(f"{model} is left out: {error}")
            continue
        if callable_by_requests(config):
            made[model] = make_inputs(config)
        else:
            say(f"{model} is left out: one request does not bring one answer")
    return made


async def round_robin(
    fleet: RunningFleet, requests: Mapping[str, Sequence[Tensor]], count: int, clients: int
) -> list[Reply]:
    """Asks one model after the other, ``count`` times in all, by ``clients`` at once."""
    models = itertools.islice(itertools.cycle(requests), count)
    replies: list[Reply] = []

    async def client() -> None:
        for model in models:  # shared: each client takes the next
            answer = await fleet.ask(fleet.gateway, model, requests[model])
            replies.append(Reply(model, answer, time.monotonic()))

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


async def arrivals(fleet: RunningFleet, models: Sequence[str]) -> list[Eviction]:
    """What the controller remembers of bringing these models in."""
    found = []
    for model in models:
        decisions, now = await fleet.decisions(model), time.monotonic()
        for decision in decisions:
            evicted = tuple(decision["evicted"])
            # One that lists the model itself tells of its leaving.
            if decision["model"] == model and model not in evicted:
                found.append(Eviction(model, now - decision["seconds_ago"], evicted))
    return found


def by_kind(replies: Sequence[Reply], decided: Sequence[Eviction]) -> dict[str, list[Reply]]:
    """The good answers by what happened before them.

    Every cold one is under ``cold``; under a second name, too, if its decision is remembered.
    """
    kinds: dict[str, list[Reply]] = {kind: [] for kind in KINDS}
    for reply in replies:
        if reply.answer.error is not None:
            continue
        if not reply.answer.cold:
            kinds["warm"].append(reply)
            continue
        kinds["cold"].append(reply)
        arrival = _arrival(reply, decided)
        if arrival is not None:
            kind = "cold, others evicted" if arrival.evicted else "cold, nobody evicted"
            kinds[kind].append(reply)
    return kinds


def _arrival(reply: Reply, decided: Sequence[Eviction]) -> Eviction | None:
    """The last decision that brought the model in before it answered."""
    latest = reply.ended_at + _DECISION_ROUNDING_S
    earlier = [d for d in decided if d.model == reply.model and d.at <= latest]
    return max(earlier, key=lambda decision: decision.at, default=None)
