"""What pairs of measurements say about each other. Pure: values in, values out.

Gateway and direct runs alternate, so every gateway run has a direct run from the same minute. A
ratio is taken inside each pair, and the median of the pairs is what counts: a machine that slows
down in the middle then moves neither. A ratio of 1 means no difference; above 1 is better for
throughput and worse for latency.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from fleet_perf.analyzer import Measurement


@dataclass(frozen=True, slots=True)
class Ratio:
    """The median of the ratios inside the pairs, and how far they lie apart."""

    median: float
    lowest: float
    highest: float


@dataclass(frozen=True, slots=True)
class WarmComparison:
    """A model in memory at one concurrency: every pair, the medians and the ratios."""

    model: str
    concurrency: int
    batch_size: int
    direct: tuple[Measurement, ...]
    gateway: tuple[Measurement, ...]
    direct_throughput: float
    gateway_throughput: float
    direct_p50_us: float
    gateway_p50_us: float
    direct_p95_us: float
    gateway_p95_us: float
    throughput: Ratio
    p50: Ratio
    p95: Ratio


@dataclass(frozen=True, slots=True)
class Spread:
    """A list of times in two figures."""

    count: int
    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class ColdComparison:
    """The first answer of a model that was not in memory, in seconds, against Triton alone."""

    model: str
    gateway_s: tuple[float, ...]
    bare_s: tuple[float, ...]
    gateway: Spread
    bare: Spread
    ratio_p50: float
    ratio_p95: float


def ratio(gateway: Sequence[float], direct: Sequence[float]) -> Ratio:
    """The ratio gateway / direct over pairs in order; ValueError when there are none."""
    quotients = [over / under for over, under in zip(gateway, direct, strict=True)]
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def spread(values: Sequence[float]) -> Spread | None:
    """Median and 95th percentile, interpolated; None for no values."""
    if not values:
        return None
    p50, p95 = numpy.percentile(values, [50, 95])
    return Spread(len(values), float(p50), float(p95))


def compare_warm(
    model: str,
    concurrency: int,
    batch_size: int,
    direct: Sequence[Measurement],
    gateway: Sequence[Measurement],
) -> WarmComparison:
    """Both sides of one cell of the table; the n-th of each make a pair."""
    direct_rate, gateway_rate = _column(direct, "throughput"), _column(gateway, "throughput")
    direct_p50, gateway_p50 = _column(direct, "latency_p50_us"), _column(gateway, "latency_p50_us")
    direct_p95, gateway_p95 = _column(direct, "latency_p95_us"), _column(gateway, "latency_p95_us")
    return WarmComparison(
        model, concurrency, batch_size, tuple(direct), tuple(gateway),
        direct_throughput=statistics.median(direct_rate),
        gateway_throughput=statistics.median(gateway_rate),
        direct_p50_us=statistics.median(direct_p50),
        gateway_p50_us=statistics.median(gateway_p50),
        direct_p95_us=statistics.median(direct_p95),
        gateway_p95_us=statistics.median(gateway_p95),
        throughput=ratio(gateway_rate, direct_rate),
        p50=ratio(gateway_p50, direct_p50),
        p95=ratio(gateway_p95, direct_p95),
    )  # fmt: skip


def _column(measurements: Sequence[Measurement], name: str) -> list[float]:
    return [float(getattr(measurement, name)) for measurement in measurements]


def compare_cold(model: str, gateway_s: Sequence[float], bare_s: Sequence[float]) -> ColdComparison:
    """Cold starts of one model on both sides; ValueError when a side is empty."""
    gateway, bare = spread(gateway_s), spread(bare_s)
    if gateway is None or bare is None:
        raise ValueError(f"{model}: nothing to compare")
    return ColdComparison(
        model, tuple(gateway_s), tuple(bare_s), gateway, bare,
        ratio_p50=gateway.p50 / bare.p50, ratio_p95=gateway.p95 / bare.p95,
    )  # fmt: skip
