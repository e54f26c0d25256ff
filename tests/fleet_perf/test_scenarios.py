from __future__ import annotations

from pathlib import Path

import pytest

from fleet_perf.scenarios import Effort, load_scenarios, read_input_data
from tritonfleet.errors import InvalidSpec

SHIPPED = Path(__file__).parents[2] / "perf" / "scenarios"


def written(folder: Path, text: str) -> Path:
    path = folder / "scenario.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_scenarios_are_valid(path):
    assert load_scenarios(path).scenarios


def test_warm_and_cold_scenarios_are_told_apart(tmp_path):
    path = written(
        tmp_path,
        "name: n\nscenarios:\n"
        "  - {model: a, state: warm, concurrency: [2], batch_size: 4, shapes: {x: [3]}}\n"
        "  - {model: b, state: cold, samples: 5}\n",
    )
    found = load_scenarios(path)
    (warm,), (cold,) = found.warm(), found.cold()
    assert (warm.model, warm.concurrency, warm.batch_size, warm.shapes) == (
        "a",
        (2,),
        4,
        {"x": (3,)},
    )
    assert (cold.model, cold.samples) == ("b", 5)


def test_an_unknown_key_is_an_error_with_a_suggestion(tmp_path):
    path = written(tmp_path, "name: n\nscenarios: [{model: a, state: warm, concurency: [1]}]\n")
    with pytest.raises(InvalidSpec) as caught:
        load_scenarios(path)
    (problem,) = caught.value.problems
    assert problem.path == "scenarios.0.concurency"
    assert problem.suggestion == "did you mean 'concurrency'?"


def test_all_mistakes_are_told_at_once(tmp_path):
    path = written(
        tmp_path,
        "name: n\nscenarios:\n"
        "  - {model: a, state: lukewarm}\n"
        "  - {model: b, state: warm, concurrency: [0]}\n",
    )
    with pytest.raises(InvalidSpec) as caught:
        load_scenarios(path)
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("text", ["{a: [", "name: n\n"])
def test_a_file_that_is_no_scenario_file_is_refused(tmp_path, text):
    with pytest.raises(InvalidSpec):
        load_scenarios(written(tmp_path, text))


def test_a_missing_file_is_bad_input(tmp_path):
    with pytest.raises(InvalidSpec, match="cannot be read"):
        load_scenarios(tmp_path / "none.yaml")


def test_input_data_lies_beside_the_scenario_file(tmp_path):
    path = written(tmp_path, "name: n\nscenarios: [{model: a, state: warm, input_data: in.json}]\n")
    (warm,) = load_scenarios(path).warm()
    assert warm.input_data == tmp_path / "in.json"


def test_input_data_is_read_as_it_is(tmp_path):
    path = tmp_path / "in.json"
    path.write_text('{"data": [{"x": [1.5]}]}')
    assert read_input_data(path) == {"data": [{"x": [1.5]}]}


@pytest.mark.parametrize("text", ["{", "[]", '{"dataset": []}'])
def test_input_data_of_another_form_is_refused(tmp_path, text):
    path = tmp_path / "in.json"
    path.write_text(text)
    with pytest.raises(InvalidSpec):
        read_input_data(path)


def test_a_model_the_fleet_does_not_have_is_named_with_the_nearest(tmp_path):
    path = written(tmp_path, "name: n\nscenarios: [{model: digit, state: cold}]\n")
    with pytest.raises(InvalidSpec, match="did you mean 'digits'"):
        load_scenarios(path).check_models(path, ("digits", "minilm"))


def test_quick_is_never_longer():
    effort = Effort(repeats=5, window_ms=100)
    assert (effort.quick().repeats, effort.quick().window_ms) == (1, 100)
