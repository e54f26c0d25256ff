"""The metric gate: a figure of the user's own that an artifact must reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from repo_builder.causes import root_cause
from repo_builder.importable import imported
from repo_builder.sources.base import Predict
from tritonfleet.errors import FleetError, MetricFailed
from tritonfleet.spec.export import MetricSpec

Metric: TypeAlias = Callable[[Predict], float]
# A drop of exactly what is allowed must pass, whatever binary fractions make of it.
_ROUNDING = 1e-9


def load_metric(model: str, spec: MetricSpec, base: Path) -> Metric:
    """The user's function; MetricFailed when it cannot be imported, fails, or gives no number.

    ``base`` is the fleet file's folder, where a relative ``python_path`` starts.
    """
    function = _imported(model, spec, base)

    def metric(predict: Predict) -> float:
        try:
            value = function(predict, **spec.arguments)
        except FleetError:
            raise
        # It is the user's code: it may raise anything.
        except Exception as error:
            cause = f"its metric {spec.metric} fails: {root_cause(error)}"
            hint = "It is called with predict and 'metric.arguments'."
            raise MetricFailed(model, cause, hint) from error
        return _number(model, spec, value)

    return metric


def judge_metric(model: str, value: float, original: float | None, spec: MetricSpec) -> None:
    """Raises MetricFailed for a figure below the minimum, or too far below the original's."""
    if spec.minimum is not None and value < spec.minimum - _ROUNDING:
        cause = f"{spec.metric} gives {value:.6g}, and at least {spec.minimum:.6g} is asked for"
        beside = "" if original is None else f"The original itself has {original:.6g}. "
        raise MetricFailed(model, cause, f"{beside}Choose a milder variant, or lower the minimum.")
    if spec.maximum_drop is None:
        return
    if original is None:
        cause = f"the original's {spec.metric} is not known, so no drop can be judged"
        raise MetricFailed(model, cause, "Give a 'minimum' instead of 'maximum_drop'.")
    if original - value > spec.maximum_drop + _ROUNDING:
        cause = (
            f"{spec.metric} drops by {original - value:.6g}, from {original:.6g} to {value:.6g}, "
            f"and at most {spec.maximum_drop:.6g} is allowed"
        )
        raise MetricFailed(model, cause, "Choose a milder variant, or raise maximum_drop.")


def _imported(model: str, spec: MetricSpec, base: Path) -> Callable[..., Any]:
    folder = _folder(model, base / spec.python_path) if spec.python_path is not None else None
    try:
        function = imported(spec.metric, folder)
    # Importing runs the user's code: it may raise anything.
    except Exception as error:
        cause = f"its metric {spec.metric} cannot be imported: {root_cause(error)}"
        hint = "Check 'metric' and 'python_path'; the latter is relative to the fleet file."
        raise MetricFailed(model, cause, hint) from error
    if not callable(function):
        cause = f"its metric {spec.metric} is a {type(function).__name__}, no function"
        raise MetricFailed(model, cause, "Name a function that takes predict.")
    found: Callable[..., Any] = function
    return found


def _folder(model: str, path: Path) -> Path:
    if not path.is_dir():
        hint = "'metric.python_path' is relative to the fleet file."
        raise MetricFailed(model, f"there is no folder {path.resolve()}", hint)
    return path.resolve()


def _number(model: str, spec: MetricSpec, value: Any) -> float:
    try:
        # float() would take these too, and nobody means them.
        number = math.nan if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        cause = f"its metric {spec.metric} returned {value!r:.80}, which is no finite number"
        raise MetricFailed(model, cause, "Return one number, of which more is better.")
    return number
