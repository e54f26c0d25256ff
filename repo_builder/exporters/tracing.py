"""Traces of modules, and whether they can be believed.

A trace records what one sample did. A forward that branches on values takes other branches for
other samples, and its trace does not: so both are asked the same further samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from repo_builder.causes import root_cause
from repo_builder.exporters.sample import quiet, run, sample_arguments, sample_sizes
from repo_builder.judging.gates import Difference, difference
from repo_builder.sources.base import Checkpoint
from tritonfleet.errors import ExportFailed

# One branch in two is missed once in 65 000 models.
_FURTHER_SAMPLES = 16
_TOLERANCE = 1e-3


def is_script(checkpoint: Checkpoint) -> bool:
    """Whether the module is TorchScript already, with all its branches."""
    import torch

    return isinstance(checkpoint.module, torch.jit.ScriptModule)


def trace(model: str, checkpoint: Checkpoint, hint: str) -> Any:
    """A trace that answers further samples as the module does; ExportFailed otherwise."""
    import torch

    arguments = sample_arguments(checkpoint, sample_sizes(checkpoint))
    try:
        with torch.no_grad(), quiet():
            traced = torch.jit.trace(checkpoint.module, arguments, check_trace=False).eval()
    # The forward is the user's code, and tracing adds a dozen types of its own.
    except Exception as error:
        raise ExportFailed(model, root_cause(error), hint) from error
    for seed in range(1, _FURTHER_SAMPLES + 1):
        _compare(model, checkpoint, traced, seed, hint)
    return traced


def _compare(model: str, checkpoint: Checkpoint, traced: Any, seed: int, hint: str) -> None:
    arguments = sample_arguments(checkpoint, sample_sizes(checkpoint), seed)
    expected = run(checkpoint.module, arguments)
    try:
        worst = max(
            difference(np.asarray(was), np.asarray(now))
            for was, now in zip(expected, run(traced, arguments), strict=True)
        )
    except (Difference, RuntimeError) as error:
        worst, told = float("inf"), f" ({error})" if isinstance(error, Difference) else ""
    else:
        told = f" (by {worst:.2g})"
    if worst > _TOLERANCE:
        cause = f"its trace differs from it on another sample of the same sizes{told}"
        branches = "Its forward branches on values, is random or keeps state. "
        raise ExportFailed(model, cause, branches + hint)
