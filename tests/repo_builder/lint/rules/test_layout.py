from __future__ import annotations

import os

import pytest

from repo_builder.lint.onnx_file import read_onnx
from tests.repo_builder.lint.builders import (
    IDENTITY,
    change,
    found,
    onnx_bytes,
    onnx_model,
    python_model,
    told,
    write,
)


@pytest.fixture
def model(tmp_path):
    return onnx_model(tmp_path)


def test_a_correct_model_has_no_findings(model):
    assert told(model.parent) == ""


def test_a_configuration_of_another_name_is_found(model):
    change(model, 'name: "m"', 'name: "other"')
    assert found(model.parent) == ["name-differs"]


def test_a_configuration_need_not_be_named(model):
    change(model, 'name: "m"', "")
    assert told(model.parent) == ""


@pytest.mark.parametrize("name", ["a b", "größe", "-m", "a%2Fb"])
def test_an_odd_name_is_found(tmp_path, name):
    onnx_model(tmp_path, name)
    assert found(tmp_path) == ["odd-name"]


def test_a_missing_configuration_is_an_error_where_nothing_completes_it(tmp_path):
    (python_model(tmp_path) / "config.pbtxt").unlink()
    assert found(tmp_path) == ["missing-config"]


def test_a_missing_configuration_that_the_backend_completes_is_mentioned(model):
    (model / "config.pbtxt").unlink()
    assert found(model.parent) == ["completed-config"]


@pytest.mark.parametrize("name", ["v1", "007", "version_2", "1.0", "V3"])
def test_a_version_that_triton_ignores_is_found(model, name):
    (model / name).mkdir()
    assert found(model.parent) == ["ignored-version"]


@pytest.mark.parametrize("name", ["0", "12", "configs", "warmup", "tokenizer"])
def test_other_folders_are_no_mistake(model, name):
    write(model / name, {"model.onnx": onnx_bytes()})
    assert told(model.parent) == ""


def test_a_model_without_a_version_is_found(model):
    (model / "1").rename(model / "v1")
    assert found(model.parent) == ["no-version", "ignored-version"]


@pytest.mark.parametrize(
    ("policy", "rules"),
    [
        ("specific { versions: [1] }", []),
        ("specific { versions: [2] }", ["policy-serves-nothing"]),
        ("specific { versions: [1, 2] }", ["policy-missing-version"]),
        ("latest { num_versions: 0 }", ["policy-serves-nothing"]),
        ("all { }", []),
    ],
)
def test_a_version_policy_is_held_against_the_versions(tmp_path, policy, rules):
    onnx_model(tmp_path, more=f"version_policy {{ {policy} }}")
    assert found(tmp_path) == rules


def test_a_link_to_nothing_is_found(model):
    (model / "1" / "vocabulary.txt").symlink_to("absent")
    assert "leads to nothing: absent" in told(model.parent)


def test_links_that_go_round_in_a_circle_are_found(model):
    (model / "1" / "a").symlink_to("b")
    (model / "1" / "b").symlink_to("a")
    assert found(model.parent) == ["broken-link", "broken-link"]


def test_a_link_out_of_the_repository_is_found(tmp_path):
    model = onnx_model(tmp_path / "repository")
    (tmp_path / "words.txt").write_text("a")
    (model / "1" / "words.txt").symlink_to(tmp_path / "words.txt")
    assert found(tmp_path / "repository") == ["link-outside"]


def test_a_linked_version_is_found(model):
    (model / "1").rename(model / "new")
    (model / "1").symlink_to("new")
    assert found(model.parent) == ["linked-folder"]


def test_a_folder_that_is_no_model_is_found(model):
    (model.parent / "lost+found").mkdir()
    (model.parent / ".cache").mkdir()
    assert found(model.parent) == ["stray-folder", "stray-folder"]


def test_files_beside_the_models_are_no_mistake(model):
    write(model.parent, {"README.md": "x", ".gitignore": "x"})
    assert told(model.parent) == ""


def test_a_model_s_folder_is_not_taken_for_a_repository(model):
    assert found(model) == ["not-a-repository"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_found(model):
    (model / "config.pbtxt").chmod(0)
    assert "unreadable" in found(model.parent)


def test_a_file_that_cannot_be_read_never_stops_the_others(model, monkeypatch):
    onnx_model(model.parent, "other", config=IDENTITY.replace("FP32", "INT64", 1))

    def refuse(name, path):
        if name == "m":
            raise PermissionError(13, "Permission denied", str(path))
        return read_onnx(name, path)

    monkeypatch.setattr("repo_builder.lint.rules.artifact.read_onnx", refuse)
    assert found(model.parent) == ["unreadable", "wrong-type"]
