"""The metric gate: what it calls, what it accepts, and what it says."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.judging.metric import judge_metric, load_metric
from tritonfleet.errors import MetricFailed, ParityFailed
from tritonfleet.spec.export import MetricSpec


def spec(metric="gate:score", **fields):
    return MetricSpec(metric=metric, **fields)


@pytest.fixture
def loaded(tmp_path, monkeypatch):
    """Writes a module of the user's and loads its function."""
    monkeypatch.setattr("sys.path", [*sys.path])
    count = iter(range(100))

    def load(code, function="score", **fields):
        name = f"gate_{tmp_path.name}_{next(count)}"
        (tmp_path / "code").mkdir(exist_ok=True)
        (tmp_path / "code" / f"{name}.py").write_text(code)
        return load_metric("m", spec(f"{name}:{function}", python_path="code", **fields), tmp_path)

    return load


def doubled(inputs):
    return {"y": 2 * inputs["x"]}


def test_the_function_gets_predict_and_its_arguments(loaded):
    code = "def score(predict, x, scale=1):\n    return float(predict({'x': x})['y']) * scale"
    metric = loaded(code, arguments={"x": 3, "scale": 10})
    assert metric(doubled) == 60.0


def test_it_may_be_an_attribute_of_an_attribute(loaded):
    code = "class Scores:\n    @staticmethod\n    def best(predict):\n        return 1"
    assert loaded(code, "Scores.best")(doubled) == 1.0


@pytest.mark.parametrize("value", ["np.float32(0.5)", "np.array(0.5)", "0.5", "np.array([0.5])[0]"])
def test_any_kind_of_number_will_do(loaded, value):
    metric = loaded(f"import numpy as np\ndef score(predict): return {value}")
    assert metric(doubled) == 0.5 and type(metric(doubled)) is float


@pytest.mark.parametrize("value", ["None", "'0.9'", "float('nan')", "float('inf')", "True", "{}"])
def test_what_is_no_number_is_refused(loaded, value):
    with pytest.raises(MetricFailed, match="which is no finite number"):
        loaded(f"def score(predict): return {value}")(doubled)


def test_what_it_raises_is_told(loaded):
    with pytest.raises(MetricFailed, match="fails: KeyError: 'z'"):
        loaded("def score(predict): return predict({'x': 1})['z']")(doubled)


def test_arguments_that_do_not_fit_are_told(loaded):
    with pytest.raises(MetricFailed, match="unexpected keyword argument 'rows'"):
        loaded("def score(predict): return 1", arguments={"rows": 3})(doubled)


def test_an_artifact_that_fails_under_it_keeps_its_own_error(loaded):
    def broken(inputs):
        raise ParityFailed("m", "the artifact fails")

    with pytest.raises(ParityFailed, match="the artifact fails"):
        loaded("def score(predict): return predict({})")(broken)


@pytest.mark.parametrize(
    ("code", "function", "reason"),
    [
        ("x = 1", "score", "AttributeError"),
        ("raise OSError('no data set')", "score", "OSError: no data set"),
        ("score = 3", "score", "is a int, no function"),
        ("import a_module_nobody_has", "score", "No module named 'a_module_nobody_has'"),
    ],
)
def test_what_cannot_be_imported_is_told(loaded, code, function, reason):
    with pytest.raises(MetricFailed, match=reason):
        loaded(code, function)


def test_a_module_that_is_not_there_is_told(tmp_path):
    with pytest.raises(MetricFailed, match="no_such_gate:score cannot be imported"):
        load_metric("m", spec("no_such_gate:score"), tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MetricFailed, match=f"there is no folder {tmp_path}/nowhere"):
        load_metric("m", spec(python_path="nowhere"), tmp_path)


def test_below_the_minimum_is_refused_with_the_original_s_figure():
    with pytest.raises(MetricFailed, match=r"gives 0.8, and at least 0.85 .* itself has 0.9"):
        judge_metric("m", 0.8, 0.9, spec(minimum=0.85))


def test_too_large_a_drop_is_refused():
    with pytest.raises(MetricFailed, match=r"drops by 0.1, from 0.9 to 0.8, .* most 0.05"):
        judge_metric("m", 0.8, 0.9, spec(maximum_drop=0.05))


def test_a_drop_cannot_be_judged_without_an_original():
    with pytest.raises(MetricFailed, match="is not known"):
        judge_metric("m", 0.8, None, spec(maximum_drop=0.05))


@given(st.floats(-1e3, 1e3), st.floats(0, 1e3))
def test_whatever_is_asked_for_nothing_more_is(value, original):
    judge_metric("m", value, original, spec())


@given(st.integers(0, 1000), st.integers(0, 1000), st.integers(0, 1000))
def test_a_drop_of_exactly_what_is_allowed_passes_and_more_does_not(start, drop, more):
    original = start / 1000
    allowed = spec(maximum_drop=drop / 1000)
    judge_metric("m", original - drop / 1000, original, allowed)
    judge_metric("m", original + more / 1000, original, allowed)
    with pytest.raises(MetricFailed):
        judge_metric("m", original - (drop + more + 1) / 1000, original, allowed)


def test_arrays_pass_through_untouched(loaded):
    metric = loaded("import numpy as np\ndef score(p): return p({'x': np.ones((2, 2))})['y'].sum()")
    assert metric(doubled) == np.full((2, 2), 2.0).sum()
