"""Values for the tests of the bench, with everything irrelevant filled in."""

from __future__ import annotations

from typing import Any

from fleet_perf.analyzer import Measurement
from fleet_perf.fleet import Answer
from fleet_perf.rounds import Reply


def measurement(throughput: float = 100.0, p50: float = 1000.0, p95: float = 2000.0) -> Measurement:
    return Measurement(
        requests=100,
        throughput=throughput,
        latency_avg_us=p50,
        latency_p50_us=p50,
        latency_p90_us=p95,
        latency_p95_us=p95,
        latency_p99_us=p95,
        server_queue_us=10.0,
        server_compute_us=100.0,
    )


def warm(latency_s: float = 0.001) -> Answer:
    return Answer(200, latency_s, cold=False, wait_ms=0.0)


def cold(latency_s: float = 0.2) -> Answer:
    return Answer(200, latency_s, cold=True, wait_ms=latency_s * 1000)


def refused(status: int = 503, error: str = "no room") -> Answer:
    return Answer(status, 0.001, cold=False, wait_ms=0.0, error=error)


def reply(model: str, answer: Answer, ended_at: float = 10.0) -> Reply:
    return Reply(model, answer, ended_at)


def tensor(name: str, data_type: str, dims: list[int], **more: Any) -> dict[str, Any]:
    return {"name": name, "data_type": f"TYPE_{data_type}", "dims": dims, **more}


def config(*inputs: dict[str, Any], name: str = "m", batch: int = 8, **more: Any) -> dict[str, Any]:
    return {"name": name, "max_batch_size": batch, "input": list(inputs), **more}
