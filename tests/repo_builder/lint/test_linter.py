from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo_builder.lint.findings import SEVERITIES
from repo_builder.lint.linter import lint
from repo_builder.lint.rules import RULES
from tests.repo_builder.lint.builders import found, onnx_model, python_model, told, write
from tests.repo_builder.lint.configs import messages
from tritonfleet.server.pbtxt import ModelConfig

ROOT = Path(__file__).parents[3]


def test_an_empty_repository_has_no_findings(tmp_path):
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"max_batch_size: [", "does not parse: 1:"),
        (b'name: "m"\nbackand: "python"', "does not parse: 2:"),
        (b"\xff\xfe\x00binary", "is not UTF-8 text (line 1, byte 0)"),
        (b"name: 1", "does not parse: 1:"),
        (bytes(100), "does not parse"),
        (b"# big\n" * (2 << 20), "more than any configuration"),
    ],
)
def test_a_configuration_that_is_none_is_found_and_nothing_else(tmp_path, content, cause):
    write(onnx_model(tmp_path), {"config.pbtxt": content})
    onnx_model(tmp_path, "good")
    assert found(tmp_path) == ["config-parse"]
    assert cause in told(tmp_path)


def test_a_long_configuration_is_read(tmp_path):
    lines = [f'parameters {{ key: "k{i}" value {{ string_value: "v" }} }}' for i in range(10_000)]
    onnx_model(tmp_path, more="\n".join(lines))
    assert told(tmp_path) == ""


def test_a_configuration_that_is_a_folder_or_a_broken_link_is_found(tmp_path):
    for name in ("a", "b"):
        (onnx_model(tmp_path, name) / "config.pbtxt").unlink()
    (tmp_path / "a" / "config.pbtxt").mkdir()
    (tmp_path / "b" / "config.pbtxt").symlink_to("config.pbtxt")
    assert sorted(set(found(tmp_path))) == ["broken-link", "unreadable"]


def test_links_between_models_that_go_round_are_survived(tmp_path):
    onnx_model(tmp_path)
    (tmp_path / "round").symlink_to("round")
    (tmp_path / "m" / "1" / "up").symlink_to("..")
    assert told(tmp_path) == ""


def test_other_configurations_of_a_model_are_held_to_the_same_rules(tmp_path):
    model = onnx_model(tmp_path)
    text = (model / "config.pbtxt").read_text()
    write(model, {"configs/gpu.pbtxt": text.replace("FP32", "FP16", 1)})
    assert told(tmp_path).startswith("m wrong-type configs/gpu.pbtxt: input 'x'")


def test_what_two_configurations_share_is_said_once(tmp_path):
    model = onnx_model(tmp_path, more="dynamic_batching { max_queue_delay_microseconds: 9000000 }")
    shutil.copy(model / "config.pbtxt", write(model, {"configs/.keep": ""}) / "configs/gpu.pbtxt")
    assert found(tmp_path) == ["queue-delay"]


def test_findings_come_by_model_and_worst_first(tmp_path):
    for name in ("b", "a"):
        onnx_model(tmp_path, name, more="response_cache { enable: true }", opset=27)
    findings = lint(tmp_path)[1]
    assert [finding.model for finding in findings] == ["a", "a", "b", "b"]
    assert [finding.severity for finding in findings] == ["error", "info"] * 2


@pytest.mark.skipif(
    not (ROOT / "model_repository" / "manifest.json").is_file(), reason="nothing is built here"
)
def test_the_demo_fleet_s_own_repository_has_no_findings(tmp_path):
    # Without the manifest: a checkout's may be older than the rules.
    for model in (ROOT / "model_repository").iterdir():
        if model.is_dir():
            (tmp_path / model.name).symlink_to(model)
    assert set(found(tmp_path)) <= {"link-outside"}


def test_every_rule_is_told_in_the_documentation():
    text = (ROOT / "docs" / "lint.md").read_text(encoding="utf-8")
    told = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert set(told) == set(RULES)
    for name, rule in RULES.items():
        assert f"| {rule.severity} |" in told[name]


def test_rules_have_ids_of_one_form_and_a_known_severity():
    for name, rule in RULES.items():
        assert name == name.lower() and " " not in name
        assert rule.severity in SEVERITIES and rule.what


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(config=messages(ModelConfig.DESCRIPTOR), file=st.sampled_from(["model.onnx", "model.py"]))
def test_no_configuration_stops_the_linter(tmp_path_factory, config, file):
    from google.protobuf import json_format

    folder = tmp_path_factory.mktemp("repository")
    onnx_model(folder, "other")
    message = json_format.ParseDict(config, ModelConfig())
    text = text_format.MessageToString(message)
    content = (folder / "other" / "1" / "model.onnx").read_bytes()
    write(folder / "m", {"config.pbtxt": text, f"1/{file}": content})
    repository, findings = lint(folder)
    assert repository.models["m"][0].parsed
    assert all(finding.rule in RULES and finding.message for finding in findings)
    assert not [f for f in findings if f.model == "other" and f.rule != "resource-scope"]


@settings(max_examples=150, deadline=None)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_stop_the_linter(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("repository")
    write(folder / "m", {"config.pbtxt": content, "1/model.onnx": content})
    assert all(finding.rule in RULES for finding in lint(folder)[1])


def test_a_python_model_and_an_onnx_model_side_by_side_are_no_mistake(tmp_path):
    onnx_model(tmp_path, "a")
    python_model(tmp_path, "b")
    assert told(tmp_path) == ""
