"""How fast candidates answer on this machine, beside the original, on the same inputs.

All take turns, request by request, so that whatever else the machine does meets everybody alike;
medians are kept. ``choose`` names the best by the fleet file's objective.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from repo_builder.judging.reference import Tensors
from repo_builder.judging.runners import open_runner
from repo_builder.signature import BATCH, Signature
from repo_builder.sources.base import Checkpoint, Predict
from tritonfleet.server.layout import Measurement, VariantRecord
from tritonfleet.spec.export import MeasureSpec

Objective = Literal["min_latency", "max_throughput", "min_memory"]
_USUAL_SIZE = 32
_WARM_UPS = 2
_FEWEST_ROUNDS = 5


def requests_for(checkpoint: Checkpoint, spec: MeasureSpec) -> dict[int, Tensors]:
    """One request for each batch size to measure; a model without a batch has just one."""
    batches = spec.batch_sizes if checkpoint.batched else (1,)
    sizes = {
        name: _bounded(spec.dimensions.get(name, _USUAL_SIZE), checkpoint.longest)
        for name in checkpoint.dimensions
    }
    return {
        batch: checkpoint.sample({BATCH: batch, **sizes}, np.random.default_rng(batch))
        for batch in batches
    }


def _bounded(size: int, longest: int | None) -> int:
    return min(size, longest or size)


def latencies_ms(
    candidates: Mapping[str, Predict],
    requests: Mapping[int, Tensors],
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, dict[int, float]]:
    """Median milliseconds of one execution, by candidate and batch size."""
    found: dict[str, dict[int, float]] = {name: {} for name in candidates}
    for batch, inputs in requests.items():
        for name, median_s in _medians(candidates, inputs, seconds, clock).items():
            found[name][batch] = round(1000 * median_s, 4)
    return found


def _medians(
    candidates: Mapping[str, Predict], inputs: Tensors, seconds: float, clock: Callable[[], float]
) -> dict[str, float]:
    for predict in candidates.values():
        for _ in range(_WARM_UPS):
            predict(inputs)
    times: dict[str, list[float]] = {name: [] for name in candidates}
    start, rounds, order = clock(), 0, list(candidates)
    while rounds < _FEWEST_ROUNDS or clock() - start < seconds * len(candidates):
        # The one behind a slow candidate finds cold caches: let that be somebody else each time.
        for name in order[rounds % len(order) :] + order[: rounds % len(order)]:
            begun = clock()
            candidates[name](inputs)
            times[name].append(clock() - begun)
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def memory_bytes(
    backend: str, model: str, artifact: Path, signature: Signature, largest: Tensors
) -> int:
    """What opening an artifact and one large request add to this process; call it in a fork."""
    import psutil

    process = psutil.Process()
    gc.collect()
    before = process.memory_full_info().uss
    runner = open_runner(backend, model, artifact, signature)
    runner.run(largest)
    return int(max(process.memory_full_info().uss - before, 0))


def choose(objective: Objective, candidates: Iterable[VariantRecord]) -> str | None:
    """The name of the best measured candidate; None when none was measured."""
    measured = [(c.name, c.measured) for c in candidates if c.measured is not None]
    if not measured:
        return None
    return min(measured, key=lambda each: _cost(objective, each[1]))[0]


def _cost(objective: Objective, measured: Measurement) -> float:
    if objective == "min_latency":
        return next(iter(measured.latency_ms.values()))
    if objective == "max_throughput":
        return -measured.rows_per_s
    return float("inf") if measured.memory_bytes is None else measured.memory_bytes
