"""How requests to resident models reach their server without passing through us.

The controller says which models may be reached directly; whoever carries the requests implements
this.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol


class Endpoints(Protocol):
    """The direct way to each resident model."""

    def publish(self, model: str, server: str) -> None:
        """New requests may go straight to the server from now on. Takes effect soon, not at once.

        A model that was published on another server moves.
        """

    async def withdraw(self, model: str) -> None:
        """Returns once no new request goes the direct way, and none is under way on it.

        Gives up waiting for the latter after a while: Triton itself finishes what it has begun.
        """

    async def in_flight(self) -> Mapping[str, int]:
        """How many requests each model has under way on the direct path; absent means none."""


class NoEndpoints:
    """Every request takes a lease: there is no direct way."""

    def publish(self, model: str, server: str) -> None:
        """Does nothing."""

    async def withdraw(self, model: str) -> None:
        """Returns at once."""

    async def in_flight(self) -> Mapping[str, int]:
        """Nothing."""
        return {}


class Traffic(Protocol):
    """Which version of a model answers a request that names none, while several are in memory."""

    async def split(self, model: str, stable: int | None, canary: int | None) -> None:
        """Returns once such requests go to ``stable``, but for the share of ``canary``.

        Without ``stable`` the choice is Triton's, which takes the highest in memory.
        """

    async def share(self, model: str, percent: float) -> None:
        """Returns once the canary gets so much of them."""


class NoTraffic:
    """Nobody carries requests but those who hold a lease, and a lease says the version."""

    async def split(self, model: str, stable: int | None, canary: int | None) -> None:
        """Returns at once."""

    async def share(self, model: str, percent: float) -> None:
        """Returns at once."""
