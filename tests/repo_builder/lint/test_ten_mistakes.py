"""A repository that somebody made by hand, with ten different mistakes, and the same without."""

from __future__ import annotations

from pathlib import Path

import pytest

from repo_builder.lint.findings import Expected
from repo_builder.lint.linter import lint
from tests.repo_builder.lint.builders import change, onnx_model, python_model, told, write

ENSEMBLE = """
name: "pipeline"
platform: "ensemble"
max_batch_size: 8
input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]
output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]
ensemble_scheduling {
  step [
    { model_name: "first" model_version: -1
      input_map { key: "x" value: "x" } output_map { key: "y" value: "between" } },
    { model_name: "second" model_version: -1
      input_map { key: "x" value: "between" } output_map { key: "y" value: "y" } }
  ]
}
"""
LIMITED = 'instance_group [{ count: 1 rate_limiter { resources [{ name: "gpu" count: 1 }] } }]'


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Ten models and nothing wrong with them."""
    path = tmp_path / "repository"
    onnx_model(path, "first")
    python_model(path, "second")
    python_model(path, "limited", more=LIMITED)
    onnx_model(path, "batching", more="dynamic_batching { preferred_batch_size: [4, 8] }")
    onnx_model(path, "dtype")
    onnx_model(path, "dims", inputs={"x": ["batch", 4]})
    onnx_model(path, "batchless")
    onnx_model(path, "labelled")
    change(path / "labelled", "dims: [4] }]\ninstance", 'dims: [4] label_filename: "names.txt" }]'
           "\ninstance")  # fmt: skip
    write(path / "labelled", {"names.txt": "a\nb\nc\nd\n"})
    onnx_model(path, "versioned")
    onnx_model(path, "filled")
    write(path / "pipeline", {"config.pbtxt": ENSEMBLE, "1/.keep": ""})
    return path


MISTAKES = {
    "wrong-type": ("dtype", lambda p: change(p / "dtype", "TYPE_FP32", "TYPE_INT64")),
    "wrong-shape": ("dims", lambda p: change(p / "dims", "dims: [4]", "dims: [-1]")),
    "batch-dimension": (
        "batchless",
        lambda p: onnx_model(p, "batchless", inputs={"x": [1, 4]}, outputs={"y": [1, 4]}),
    ),
    "label-file": ("labelled", lambda p: (p / "labelled/names.txt").unlink()),
    "unfilled-template": (
        "filled",
        lambda p: change(p / "filled", "max_batch_size: 8", "max_batch_size: ${MAX_BATCH}"),
    ),
    "missing-file": ("first", lambda p: (p / "first/1/model.onnx").unlink()),
    "no-version": ("versioned", lambda p: (p / "versioned/1").rename(p / "versioned/v1")),
    "preferred-batch-size": (
        "batching",
        lambda p: change(p / "batching", "preferred_batch_size: [4, 8]", "preferred_batch_size: 9"),
    ),
    "unreachable-step": (
        "pipeline",
        lambda p: change(p / "pipeline", 'key: "x" value: "between"', 'key: "x" value: "betwen"'),
    ),
    "resource-unmet": ("limited", lambda p: change(p / "limited", "count: 1 }]", "count: 3 }]")),
}
SERVER = {"resources": {"gpu": 2}}


def test_a_correct_repository_has_no_findings(repository):
    assert told(repository, **SERVER) == ""


def test_ten_different_mistakes_are_all_named(repository):
    assert len(MISTAKES) == 10
    for _, make in MISTAKES.values():
        make(repository)
    found = lint(repository, Expected(**SERVER))[1]
    named = {(finding.rule, finding.model) for finding in found if finding.severity == "error"}
    assert named >= {(rule, model) for rule, (model, _) in MISTAKES.items()}
    assert all(finding.fix for finding in found)


@pytest.mark.parametrize("rule", MISTAKES)
def test_each_mistake_alone_is_found_in_its_model_only(repository, rule):
    model, make = MISTAKES[rule]
    make(repository)
    found = lint(repository, Expected(**SERVER))[1]
    assert rule in {finding.rule for finding in found}
    assert {finding.model for finding in found} == {model}
