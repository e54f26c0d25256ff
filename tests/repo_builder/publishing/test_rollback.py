from __future__ import annotations

from datetime import datetime, timezone

import pytest

from repo_builder.config.render import render_config
from repo_builder.publishing.publish import commit, stage
from repo_builder.publishing.rollback import choose_version, roll_back
from repo_builder.publishing.staging import open_staging
from repo_builder.publishing.verify import verify
from tests.repo_builder.builders import files, product, serving
from tests.repo_builder.publishing.test_publish import sha256
from tests.tiny import write_ensemble
from tritonfleet.errors import InvalidModelConfig, ModelNotFound, PublishFailed
from tritonfleet.server.layout import EarlierVersion, ManifestEntry, model_versions, read_manifest
from tritonfleet.server.pbtxt import read_config

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


@pytest.fixture
def digests(tmp_path):
    return tmp_path / "digests.json"


def publish(repository, text, model="m", made=None, fingerprint=None, **options):
    """One build of one model."""
    with open_staging(repository) as staging:
        contents = staging / "version"
        contents.mkdir()
        (contents / "model.onnx").write_text(text)
        config = render_config(model, made or product(), serving(**options))
        staged = stage(model, contents, config, serving(**options), repository, staging)
        entry = ManifestEntry(
            fingerprint=fingerprint or text, version=staged.version, backend="onnxruntime",
            source={}, digest=text, artifact_bytes=len(text),
        )  # fmt: skip
        return commit(staged, entry, repository, sha256)


def current(repository, model="m"):
    """What Triton would serve."""
    version = model_versions(repository / model)[-1]
    return (repository / model / str(version) / "model.onnx").read_text()


def test_the_version_before_is_served_again_under_a_new_number(repository, digests):
    publish(repository, "good", keep_versions=3)
    publish(repository, "bad", keep_versions=3)
    restored = roll_back("m", repository, digests, now=NOW)
    assert (restored.replaced, restored.earlier, restored.version) == (2, 1, 3)
    assert current(repository) == "good"
    good, again = (repository / f"m/{version}/model.onnx" for version in (1, 3))
    assert good.samefile(again)
    assert model_versions(repository / "m") == (1, 2, 3)


def test_its_configuration_and_labels_come_back_with_it(repository, digests):
    old = product(labels={"y": ("a", "b", "c")})
    publish(repository, "good", made=old, instance_group=[{"count": 3}])
    before = files(repository / "m")
    publish(repository, "bad", made=product("x FP32 batch 9"))
    roll_back("m", repository, digests, now=NOW)
    after = files(repository / "m")
    for name in ("config.pbtxt", "y_labels.txt"):
        assert after[name] == before[name]
    assert read_config(repository, "m").instance_group[0].count == 3


def test_the_entry_is_the_earlier_one_and_rejects_what_was_left(repository, digests):
    publish(repository, "good")
    publish(repository, "bad")
    roll_back("m", repository, digests, now=NOW)
    entry = read_manifest(repository).models["m"]
    assert (entry.fingerprint, entry.version, entry.restored) == ("good", 3, 1)
    assert entry.rejected == "bad"
    assert entry.built_at == "2026-01-02T00:00:00+00:00"
    assert sorted(entry.earlier) == [1, 2]
    assert verify(repository).differences == ()


def test_two_rollbacks_go_two_steps_back(repository, digests):
    for text in ("oldest", "good", "bad"):
        publish(repository, text, keep_versions=5)
    roll_back("m", repository, digests, now=NOW)
    assert current(repository) == "good"
    roll_back("m", repository, digests, now=NOW)
    assert current(repository) == "oldest"
    assert read_manifest(repository).models["m"].rejected == "bad"
    with pytest.raises(PublishFailed, match=r"no version before 1 is kept.*--to: 1, 2, 3, 4\."):
        roll_back("m", repository, digests, now=NOW)


def test_going_forward_again_rejects_nothing(repository, digests):
    publish(repository, "good")
    publish(repository, "better")
    roll_back("m", repository, digests, now=NOW)
    roll_back("m", repository, digests, to=2, now=NOW)
    assert current(repository) == "better"
    assert read_manifest(repository).models["m"].rejected is None


def test_a_build_after_a_rollback_can_itself_be_rolled_back(repository, digests):
    for text in ("good", "bad"):
        publish(repository, text, keep_versions=5)
    roll_back("m", repository, digests, now=NOW)
    publish(repository, "worse", keep_versions=5)
    assert read_manifest(repository).models["m"].rejected is None
    assert roll_back("m", repository, digests, now=NOW).earlier == 3
    assert current(repository) == "good"


def test_an_unknown_model_is_named_with_a_guess(repository, digests):
    publish(repository, "one", model="minilm")
    with pytest.raises(ModelNotFound, match="Did you mean 'minilm'"):
        roll_back("minilmm", repository, digests, now=NOW)


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (None, "no version before 1 is kept. Raise serving.keep_versions"),
        (1, "version 1 is the one that is served"),
        (7, "version 7 is not kept"),
    ],
)
def test_a_version_that_cannot_be_had_is_said_so(repository, digests, to, message):
    publish(repository, "only")
    before = files(repository)
    with pytest.raises(PublishFailed, match=message):
        roll_back("m", repository, digests, to=to, now=NOW)
    assert files(repository) == before


def test_a_version_whose_files_are_gone_is_not_offered():
    earlier = {n: EarlierVersion(entry={}, files={}) for n in (1, 2)}
    entry = ManifestEntry(
        fingerprint="f", version=3, backend="b", source={}, digest="d", artifact_bytes=1,
        earlier=earlier,
    )  # fmt: skip
    assert choose_version("m", entry, (1, 3), None) == 1
    with pytest.raises(PublishFailed, match=r"version 2 is not kept\. Name one of these with --to"):
        choose_version("m", entry, (1, 3), 2)


def test_a_configuration_that_would_not_serve_the_new_number_is_refused(repository, digests):
    publish(repository, "one", version_policy={"specific": [1]})
    publish(repository, "two", keep_versions=3)
    before = files(repository)
    with pytest.raises(PublishFailed, match=r"to serve the versions \[1\] only"):
        roll_back("m", repository, digests, now=NOW)
    assert files(repository) == before


def publish_pair(repository, changed):
    """An ensemble of two members, the first of which has had another interface before."""
    publish(repository, "old", model="first", made=product("x FP32 batch 4", changed))
    publish(repository, "new", model="first", made=product("x FP32 batch 4", "y FP32 batch 4"))
    publish(repository, "same", model="second", made=product("x FP32 batch 4", "y FP32 batch 4"))
    write_ensemble(repository, "whole", "first", "second")


@pytest.mark.parametrize(
    ("before", "message"),
    [
        ("y FP32 batch 9", r"tensor 'middle' would not fit: first.y \(FP32 \[-1, 9\]\) meets"),
        ("y INT64 batch 4", "tensor 'middle' would not fit"),
        ("z FP32 batch 4", "it uses 'y' of 'first', which would no longer have it"),
    ],
)
def test_a_member_that_would_break_its_ensemble_is_not_rolled_back(
    repository, digests, before, message
):
    publish_pair(repository, before)
    untouched = files(repository)
    with pytest.raises(InvalidModelConfig, match=message) as raised:
        roll_back("first", repository, digests, now=NOW)
    assert "ensemble 'whole'" in str(raised.value)
    assert files(repository) == untouched


def test_a_member_whose_batches_would_be_too_small_is_not_rolled_back(repository, digests):
    fits = product("x FP32 batch 4", "y FP32 batch 4")
    publish(repository, "old", model="first", made=fits, max_batch_size=2)
    publish(repository, "new", model="first", made=fits)
    publish(repository, "same", model="second", made=fits)
    write_ensemble(repository, "whole", "first", "second")
    with pytest.raises(InvalidModelConfig, match="batches of 8, and 'first' would take 2"):
        roll_back("first", repository, digests, now=NOW)


def test_a_member_that_still_fits_is_rolled_back(repository, digests):
    publish_pair(repository, "y FP32 batch 4")
    assert roll_back("first", repository, digests, now=NOW).version == 3


def test_an_ensemble_that_lacks_a_member_is_told(repository, digests):
    publish_pair(repository, "y FP32 batch 4")
    (repository / "second/config.pbtxt").unlink()
    with pytest.raises(InvalidModelConfig, match="its member 'second' is not published"):
        roll_back("first", repository, digests, now=NOW)
