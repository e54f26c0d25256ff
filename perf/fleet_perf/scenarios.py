"""What is measured, as people write it: scenario files in YAML, strict about unknown keys.

Knows nothing of how a measurement is taken.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fleet_perf.inputs import TEXTS
from tritonfleet.errors import InvalidSpec, Problem, did_you_mean


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Asked(_Part):
    """What both kinds of scenarios say about the requests."""

    model: str = Field(min_length=1)
    shapes: dict[str, tuple[int, ...]] = Field(
        default_factory=dict,
        description="Sizes of inputs without the batch; dynamic dimensions are 8 where not given.",
    )
    texts: tuple[str, ...] = Field(TEXTS, min_length=1, description="For inputs that take text.")


class WarmScenario(_Asked):
    """A model in memory, asked through the gateway and directly, in turns."""

    state: Literal["warm"]
    concurrency: tuple[Annotated[int, Field(ge=1)], ...] = Field((1, 8), min_length=1)
    batch_size: int = Field(1, ge=1, description="Rows of one request.")
    input_data: Path | None = Field(
        None,
        description="Inputs in perf_analyzer's JSON format, relative to the scenario file; "
        "made from the model's configuration where not given.",
    )


class ColdScenario(_Asked):
    """A model that is not in memory: its first answer, against a load by Triton alone."""

    state: Literal["cold"]
    samples: int = Field(10, ge=1, description="Pairs that count; one more pair goes before.")


Scenario: TypeAlias = Annotated[WarmScenario | ColdScenario, Field(discriminator="state")]


class Effort(_Part):
    """How much time the warm measurements may take."""

    repeats: int = Field(3, ge=1, description="Gateway and direct run in turns, so often each.")
    window_ms: int = Field(2000, ge=50, description="perf_analyzer's measurement interval.")
    windows: int = Field(10, ge=3, description="It gives up when so many do not settle.")
    stability_percentage: float = Field(
        30.0, gt=0, description="How far three windows in a row may differ."
    )

    def quick(self) -> Effort:
        """Shorter windows and fewer of them: figures to look at, not to keep."""
        update = {"repeats": 1, "window_ms": min(self.window_ms, 500), "stability_percentage": 60.0}
        return self.model_copy(update=update)


class ScenarioFile(_Part):
    """All of one scenario file."""

    name: str = Field(min_length=1)
    description: str = ""
    effort: Effort = Effort()
    scenarios: tuple[Scenario, ...] = Field(min_length=1)

    def warm(self) -> list[WarmScenario]:
        """The scenarios of models in memory."""
        return [scenario for scenario in self.scenarios if isinstance(scenario, WarmScenario)]

    def cold(self) -> list[ColdScenario]:
        """The scenarios of models that are not."""
        return [scenario for scenario in self.scenarios if isinstance(scenario, ColdScenario)]

    def check_models(self, file: Path, known: tuple[str, ...]) -> None:
        """Raises InvalidSpec when a scenario names a model the fleet does not have."""
        problems = []
        for index, scenario in enumerate(self.scenarios):
            if scenario.model not in known:
                guess = did_you_mean(scenario.model, known)
                hint = f"did you mean '{guess}'?" if guess else f"known: {', '.join(known)}"
                message = f"the fleet has no model '{scenario.model}'"
                problems.append(Problem(f"scenarios.{index}.model", message, suggestion=hint))
        if problems:
            raise InvalidSpec(str(file), tuple(problems))


def load_scenarios(path: Path) -> ScenarioFile:
    """The scenarios of a YAML file; InvalidSpec with every mistake in it."""
    try:
        found = ScenarioFile.model_validate(_document(path))
    except ValidationError as error:
        problems = tuple(_problem(details) for details in _innermost(error.errors()))
        raise InvalidSpec(str(path), problems) from error
    return found.model_copy(
        update={"scenarios": tuple(_anchored(entry, path.parent) for entry in found.scenarios)}
    )


def _document(path: Path) -> Any:
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        problem = Problem("", f"cannot be read: {error.strerror}", suggestion="see --scenario")
        raise InvalidSpec(str(path), (problem,)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        line = getattr(getattr(error, "problem_mark", None), "line", None)
        problem = Problem(
            "", f"is not valid YAML: {error}", line=None if line is None else line + 1
        )
        raise InvalidSpec(str(path), (problem,)) from error


def _innermost(errors: list[Any]) -> list[Any]:
    """The errors, less those a list reports only because its items failed."""
    outer = {details["loc"][:depth] for details in errors for depth in range(len(details["loc"]))}
    return [details for details in errors if details["loc"] not in outer]


def _problem(details: Any) -> Problem:
    # The tag of the union ("warm") stands in the location, and in no file.
    at = ".".join(str(part) for part in details["loc"] if part not in ("warm", "cold"))
    if details["type"] != "extra_forbidden":
        return Problem(at, details["msg"])
    key = str(details["loc"][-1])
    guess = did_you_mean(key, _keys())
    return Problem(
        at, f"unknown key '{key}'", suggestion=f"did you mean '{guess}'?" if guess else None
    )


def _keys() -> set[str]:
    kinds: tuple[type[BaseModel], ...] = (ScenarioFile, Effort, WarmScenario, ColdScenario)
    return {name for kind in kinds for name in kind.model_fields}


def _anchored(scenario: Scenario, folder: Path) -> Scenario:
    if not isinstance(scenario, WarmScenario) or scenario.input_data is None:
        return scenario
    return scenario.model_copy(update={"input_data": folder / scenario.input_data})


def read_input_data(path: Path) -> dict[str, Any]:
    """A file in perf_analyzer's format; InvalidSpec when it cannot be read or is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidSpec(str(path), (Problem("", f"cannot be read: {error.strerror}"),)) from error
    except ValueError as error:
        raise InvalidSpec(str(path), (Problem("", f"is not JSON: {error}"),)) from error
    if not isinstance(data, dict) or not isinstance(data.get("data"), list):
        problem = Problem("data", "is missing", suggestion='write {"data": [{"input": [...]}]}')
        raise InvalidSpec(str(path), (problem,))
    return data
