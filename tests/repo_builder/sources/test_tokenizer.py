from __future__ import annotations

import json

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.tokenizer import TokenizerSource, buckets
from tests.repo_builder.builders import names
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.sources import TokenizerSource as TokenizerSpec


def spec(**fields):
    return TokenizerSpec(kind="tokenizer", **{"model": "./words", **fields})


@pytest.fixture
def context(tmp_path):
    return SourceContext("t", tmp_path, tmp_path / "repository", tmp_path / "cache")


@pytest.fixture
def tokenizer(tmp_path):
    """Writes a tokenizer.json with the given content."""

    def write(**content):
        (tmp_path / "words").mkdir(exist_ok=True)
        (tmp_path / "words" / "tokenizer.json").write_text(json.dumps(content))

    write()
    return write


def settings(context, made=None):
    folder = context.base / "version"
    folder.mkdir(exist_ok=True)
    TokenizerSource().assemble(made or spec(), context, folder)
    return json.loads((folder / "settings.json").read_text())


@pytest.mark.parametrize(
    ("given", "longest", "expected"),
    [
        ((16, 32), 32, [16, 32]),
        ((32, 16, 64), 128, [16, 32, 64, 128]),
        ((16, 512), 100, [16, 100]),
        ((8,), 4, [4]),
    ],
)
def test_buckets_ascend_and_end_in_the_longest_text(given, longest, expected):
    assert buckets(spec(buckets=given, max_length=longest)) == expected


def test_a_version_holds_tokenizer_code_and_settings(context, tokenizer):
    assert settings(context)["max_length"] == 256
    assert names(context.base / "version") == ["model.py", "settings.json", "tokenizer.json"]


def test_requests_are_batchable(context, tokenizer):
    (context.base / "v").mkdir()
    assert TokenizerSource().assemble(spec(), context, context.base / "v").signature.batchable


@pytest.mark.parametrize(
    ("content", "pad"),
    [
        ({"padding": {"pad_id": 7}}, 7),
        ({"padding": None, "added_tokens": [{"content": "<pad>", "id": 3}]}, 3),
        ({"added_tokens": [{"content": "[CLS]", "id": 3}]}, 0),
    ],
)
def test_the_padding_token_is_the_tokenizer_s_own(context, tokenizer, content, pad):
    tokenizer(**content)
    assert settings(context)["pad_id"] == pad


def test_a_folder_without_a_tokenizer_is_refused(context, tmp_path):
    (tmp_path / "words").mkdir()
    with pytest.raises(SourceUnavailable, match=r"has no tokenizer\.json"):
        settings(context)


def test_a_damaged_tokenizer_is_refused(context, tokenizer, tmp_path):
    (tmp_path / "words" / "tokenizer.json").write_text("{")
    with pytest.raises(SourceUnavailable, match="is no tokenizer"):
        settings(context)


def test_the_file_itself_may_be_named(context, tokenizer):
    assert settings(context, spec(model="./words/tokenizer.json"))


def test_its_state_is_the_tokenizer_and_the_code(context, tokenizer):
    state = TokenizerSource().state(spec(), context, lambda path: path.name)
    assert state == {"tokenizer": "tokenizer.json", "code": "tokenizer_model.py"}


def test_a_tokenizer_may_lie_at_an_address(context):
    import fsspec

    system, where = fsspec.filesystem("memory"), spec(model="memory://words")
    system.pipe("/words/tokenizer.json", b"{}")
    assert TokenizerSource().state(where, context, str) is None
    assert settings(context, where)
    assert TokenizerSource().state(where, context, str)["tokenizer"]["digest"]
    system.rm("/words", recursive=True)


def test_a_tokenizer_that_is_a_link_out_of_its_folder_is_refused(context, tokenizer, tmp_path):
    file = tmp_path / "words" / "tokenizer.json"
    file.rename(tmp_path / "elsewhere.json")
    file.symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(SourceUnavailable, match="leads out of"):
        settings(context)
