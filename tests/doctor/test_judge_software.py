from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.doctor.builders import statuses
from tritonfleet.doctor.judge_software import (
    Repository,
    canonical,
    judge_packages,
    judge_repository,
    parse_requirement,
    release,
)

REPOSITORY = Repository(Path("model_repository"), True, frozenset({"a", "b"}))


def the_only(findings):
    [finding] = findings
    return finding


# -- packages --------------------------------------------------------------------------------


def test_every_requirement_of_ours_is_understood():
    texts = importlib.metadata.requires("tritonfleet")
    assert texts
    for text in texts:
        assert text.startswith(parse_requirement(text).name)


@pytest.mark.parametrize(
    ("text", "version", "allowed"),
    [
        ("numpy<2,>=1.26", "1.26.4", True),
        ("numpy<2,>=1.26", "2.0.1", False),
        ("numpy<2,>=1.26", "1.25", False),
        ("aiohttp>=3.11", "3.9", False),
        ("aiohttp>=3.11", "3.11.0", True),
        ("torch==2.13.0", "2.13", True),
        ("torch==2.13.0", "2.13.1", False),
        ("tritonclient[grpc]>=2.54", "2.60.0", True),
        ("anything", "0.1", True),
    ],
)
def test_bounds_hold_as_pip_understands_them(text, version, allowed):
    assert parse_requirement(text).allows(version) is allowed


@pytest.mark.parametrize("text", ["a ~= 1.0", "a @ https://x", "", "a; python_version < '3.9'"])
def test_a_requirement_of_another_kind_is_refused(text):
    with pytest.raises(ValueError, match="is no"):
        parse_requirement(text)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=4), st.integers(0, 2))
def test_zeros_at_the_end_of_a_version_mean_nothing(parts, zeros):
    version = ".".join(map(str, parts))
    assert release(version) == release(version + ".0" * zeros)


def test_names_are_compared_as_indexes_compare_them():
    assert canonical("Ruamel.Yaml") == canonical("ruamel_yaml") == "ruamel-yaml"


def test_only_the_extras_in_use_are_needed():
    requirements = [parse_requirement("docker>=7.1; extra == 'container'")]
    assert statuses(judge_packages(requirements, frozenset(), {})) == ["ok"]
    missing = the_only(judge_packages(requirements, frozenset({"container"}), {}))
    assert (missing.status, missing.advice) == ("failed", ("pip install 'tritonfleet[container]'",))


def test_a_package_too_new_is_told_with_the_command_that_brings_one_that_will_do():
    requirements = [parse_requirement("numpy<2,>=1.26")]
    finding = the_only(judge_packages(requirements, frozenset(), {"numpy": "2.1.0"}))
    assert finding.status == "failed"
    assert finding.advice == ("pip install 'numpy<2,>=1.26'",)


# -- repository ------------------------------------------------------------------------------


def test_a_complete_repository_is_ok():
    assert statuses(judge_repository(REPOSITORY, ["a", "b"])) == ["ok"]


def test_models_that_are_not_built_are_named():
    finding = the_only(judge_repository(REPOSITORY, ["a", "c"]))
    assert finding.status == "warning"
    assert finding.found.endswith(": c")


def test_a_repository_without_any_of_the_models_fails():
    assert statuses(judge_repository(REPOSITORY, ["c"])) == ["failed"]
    nowhere = Repository(Path("nowhere"), False)
    assert the_only(judge_repository(nowhere, ["a"])).advice == ("tritonfleet build",)


def test_a_repository_that_a_container_may_not_read_fails():
    closed = Repository(Path("r"), True, frozenset({"a"}), ("its user cannot read r/a",))
    assert statuses(judge_repository(closed, ["a"])) == ["failed"]


def test_a_machine_without_fleet_needs_no_repository():
    assert statuses(judge_repository(Repository(Path("nowhere"), False), [])) == ["not needed"]
