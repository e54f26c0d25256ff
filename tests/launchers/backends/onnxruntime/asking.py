"""What the tests of both backends ask of a model, and what they read of its statistics."""

from __future__ import annotations

import numpy
import pytest
from tritonclient.utils import InferenceServerException

# Long enough that concurrent requests meet in one batch on any machine.
BATCHING = "dynamic_batching { max_queue_delay_microseconds: 300000 }"

NATIVE = pytest.mark.parametrize("backend", ["native"], indirect=True)
PYTHON = pytest.mark.parametrize("backend", ["python"], indirect=True)


def floats(*rows) -> tuple[str, numpy.ndarray]:
    """An input of numbers; each row is a list."""
    return "FP32", numpy.array(rows, numpy.float32)


async def statistics(client, model):
    (stats,) = (await client.get_inference_statistics(model)).model_stats
    return stats


async def counts(client, model) -> tuple[int, int]:
    stats = await statistics(client, model)
    return stats.inference_count, stats.execution_count


async def refusal(client, model) -> str:
    """Why a model does not load."""
    with pytest.raises(InferenceServerException) as caught:
        await client.load(model)
    return caught.value.message()


async def failure(asked) -> InferenceServerException:
    """The error that a request ends in."""
    with pytest.raises(InferenceServerException) as caught:
        await asked
    return caught.value


async def still_doubles(client, model="double") -> bool:
    """Whether another model answers, whatever happened to its neighbours."""
    answer = await client.ask(model, {"x": floats([1, 2])})
    return answer["y"].tolist() == [[2, 4]]
