from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo_builder.artifacts.address import Address, check_relative, is_address, parse_address
from tritonfleet.errors import SourceUnavailable


@pytest.mark.parametrize(
    ("where", "remote"),
    [
        ("s3://bucket/key", True),
        ("https://host/model.onnx", True),
        ("zip://a::s3://bucket/a.zip", True),
        ("models:/bert/3", True),
        ("models/bert", False),
        ("./models", False),
        ("package:bert/model", False),
        ("organisation/name", False),
        ("c://drive", False),
    ],
)
def test_addresses_are_told_from_paths_packages_and_hub_ids(where, remote):
    assert is_address(where) is remote


def test_what_follows_a_hash_sign_is_inside():
    assert parse_address("m", "models:/bert/3#data/a.onnx") == Address(
        "models:/bert/3", "data/a.onnx"
    )


@pytest.mark.parametrize(
    "where",
    [
        "s3://AKIA:s3cr3t@bucket/key",
        "s3://AKIA:s3/cr3t@bucket/key",
        "https://user:s3cr3t@host:8443/model.onnx",
        "https://host/model.onnx?X-Amz-Signature=s3cr3t&X-Amz-Expires=60",
        "https://host/model.onnx?key=s3cr3t",
        "https://account.blob.core.windows.net/c/model.onnx?sv=2024&sig=s3cr3t",
        "https://host/model.onnx?access_token=s3cr3t",
        "zip://a::https://user:s3cr3t@host/a.zip",
        "https://host/a?token=s3cr3t#inside",
    ],
)
def test_an_address_with_credentials_is_refused_and_not_repeated(where):
    with pytest.raises(SourceUnavailable, match="address carries credentials") as caught:
        parse_address("m", where)
    assert "s3cr3t" not in str(caught.value) and "s3/cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "where",
    [
        "s3://bucket/a@b/model.onnx",
        "https://host:8443/a@b/model.onnx",
        "abfs://container@account.dfs.core.windows.net/model",
        "sftp://user@host/model",
        "s3://bucket/key?versionId=3",
        "models:/bert@champion",
        "https://host/model.onnx?download=true",
    ],
)
def test_what_only_looks_like_credentials_is_fine(where):
    assert parse_address("m", where).url == where


def test_what_people_see_has_no_query():
    assert Address("zip://a::https://host/a.zip?x=1").shown == "zip://a::https://host/a.zip"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "a/..", "/etc/passwd", "a\\..\\x", "a\0b"])
def test_a_name_that_leaves_its_folder_is_refused(name):
    with pytest.raises(SourceUnavailable, match="leads out of s3://bucket"):
        check_relative("m", name, "s3://bucket")
    with pytest.raises(SourceUnavailable, match="leads out of models:/bert/3"):
        parse_address("m", f"models:/bert/3#{name}")


@given(st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_a_name_that_is_let_through_stays_in_its_folder(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / "folder"
    name = "/".join(parts)
    try:
        check_relative("m", name, "here")
    except SourceUnavailable:
        return
    assert (folder / name).resolve().is_relative_to(folder)
