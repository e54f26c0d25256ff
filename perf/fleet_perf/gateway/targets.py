"""What is promised of the gateway, each with the figure that was found. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Target:
    """One bound; ``found`` is in the unit that ``what`` names."""

    what: str
    found: float
    bound: float
    at_least: bool = False
    """The bound is the least that is wanted, and not the most."""

    @property
    def kept(self) -> bool:
        """Whether the figure is on the right side."""
        return self.found >= self.bound if self.at_least else self.found <= self.bound
