"""A real registry of MLflow's, in a folder."""

from __future__ import annotations

import pytest

from repo_builder.artifacts import artifact_path, artifact_state
from tests.repo_builder.builders import files
from tritonfleet.errors import SourceUnavailable

pytestmark = pytest.mark.build


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Registers folders of files as versions of 'bert'."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    from mlflow import MlflowClient

    client = MlflowClient()
    client.create_registered_model("bert")

    def register(alias=None, **contents):
        source = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        (source / "data").mkdir(parents=True)
        for name, text in contents.items():
            (source / name.replace("_", ".")).write_text(text)
        (source / "data" / "more").write_text("x")
        version = client.create_model_version("bert", source=source.as_uri())
        if alias:
            client.set_registered_model_alias("bert", alias, version.version)
        return source

    return register


def state(where, context):
    return artifact_state(where, context, lambda path: f"digest of {path.name}")


def test_a_version_is_a_folder(registry, context):
    registry(model_onnx="one")
    registry(model_onnx="two")
    assert files(artifact_path("models:/bert/2", context)) == {
        "model.onnx": b"two", "data/more": b"x",
    }  # fmt: skip


def test_a_file_of_it_is_chosen_behind_a_hash_sign(registry, context):
    registry(model_onnx="one")
    assert artifact_path("models:/bert/1#model.onnx", context).read_bytes() == b"one"
    with pytest.raises(SourceUnavailable, match=r"has no 'a.pt2'. It has data/more, model.onnx"):
        artifact_path("models:/bert/1#a.pt2", context)


def test_an_alias_follows_the_version_it_is_moved_to(registry, context):
    registry(alias="champion", model_onnx="one")
    where = "models:/bert@champion#model.onnx"
    assert artifact_path(where, context).read_bytes() == b"one"
    before = state(where, context)
    registry(alias="champion", model_onnx="two")
    assert before is not None and state(where, context) is None
    assert artifact_path(where, context).read_bytes() == b"two"


def test_a_version_is_read_once(registry, context):
    source = registry(model_onnx="one")
    artifact_path("models:/bert/1", context)
    (source / "model.onnx").unlink()
    assert (artifact_path("models:/bert/1", context) / "model.onnx").read_bytes() == b"one"


@pytest.mark.parametrize("where", ["models:/bert/7", "models:/bert@none", "models:/other/1"])
def test_what_is_not_registered_is_told(registry, context, where):
    with pytest.raises(SourceUnavailable, match=f"no such model version or alias at {where}"):
        artifact_path(where, context)


@pytest.mark.parametrize("where", ["models:/bert", "models:/bert/newest", "models:/a/b/3"])
def test_an_address_without_a_version_is_refused(registry, context, where):
    with pytest.raises(SourceUnavailable, match="Write models:/NAME/3 or models:/NAME@ALIAS"):
        artifact_path(where, context)


def test_without_a_registry_the_setting_is_named(context, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_REGISTRY_URI", raising=False)
    with pytest.raises(SourceUnavailable, match="Set MLFLOW_TRACKING_URI"):
        artifact_path("models:/bert/1", context)


def test_a_registry_that_nobody_answers_for_leaves_the_copy(registry, context, monkeypatch, caplog):
    registry(model_onnx="one")
    path = artifact_path("models:/bert/1", context)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert artifact_path("models:/bert/1", context) == path
    assert "the copy in the cache is used" in caplog.text
    with pytest.raises(SourceUnavailable, match="nobody answers for models:/bert/2"):
        artifact_path("models:/bert/2", context)
