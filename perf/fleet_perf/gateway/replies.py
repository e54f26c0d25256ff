"""What clients have seen, and what it says about those who served them. Pure but for one reader."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Replies:
    """Requests of many clients, a row each."""

    ended_s: NDArray[Any]
    """On the clock that all processes of this machine share."""
    latency_s: NDArray[Any]
    cold: NDArray[Any]
    error: NDArray[Any]
    """Which of ``errors`` came; 0 is none."""
    errors: tuple[str, ...]

    @property
    def good(self) -> NDArray[Any]:
        """Which of them were answered."""
        return numpy.equal(self.error, 0)

    def those(self, rows: NDArray[Any]) -> Replies:
        """Some of the rows."""
        return Replies(
            self.ended_s[rows],
            self.latency_s[rows],
            self.cold[rows],
            self.error[rows],
            self.errors,
        )

    def error_counts(self) -> dict[str, int]:
        """How often each error came, the most frequent first."""
        counts = Counter(self.error[~self.good].tolist())
        return {self.errors[which]: count for which, count in counts.most_common()}


@dataclass(frozen=True, slots=True)
class Latency:
    """Times of answers, in seconds."""

    count: int
    p50: float
    p99: float
    longest: float


def read(path: Path) -> Replies:
    """What one process has left."""
    with numpy.load(path) as found:
        return Replies(
            found["ended_s"],
            found["latency_s"],
            found["cold"],
            found["error"],
            tuple(str(text) for text in found["errors"]),
        )


def latency(replies: Replies) -> Latency | None:
    """Of the answers among them; None when there are none."""
    times = replies.latency_s[replies.good]
    if not len(times):
        return None
    p50, p99 = numpy.percentile(times, [50, 99])
    return Latency(len(times), float(p50), float(p99), float(times.max()))


def longest_gap_s(replies: Replies, begin_s: float, end_s: float) -> float:
    """The longest time without any answer, from one moment to another."""
    answered = numpy.sort(replies.ended_s[replies.good])
    inside = answered[(answered > begin_s) & (answered < end_s)]
    return float(numpy.diff(numpy.concatenate([[begin_s], inside, [end_s]])).max())


def first_answer_s(replies: Replies) -> float | None:
    """When the first answer came; None when none did."""
    answered = replies.ended_s[replies.good]
    return float(answered.min()) if len(answered) else None


def last_error_s(replies: Replies) -> float | None:
    """When the last error came; None when none did."""
    failed = replies.ended_s[~replies.good]
    return float(failed.max()) if len(failed) else None
