"""Label files, and data for warm-ups and states."""

from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from repo_builder.config.files import DataFile, data_file_names, label_file, read_data_files
from tests.repo_builder.builders import serving
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.tensors import NUMPY_TYPES, decode_texts

OPTIONS = {
    "warmup": [{"files": {"x": "x.npy"}}],
    "sequence_batching": {
        "state": [
            {
                "input_name": "a",
                "output_name": "b",
                "initial_state": [{"name": "s", "dims": [2], "data_file": "s.bin"}],
            }
        ]
    },
    "configs": {"big": {"warmup": [{"files": {"x": "y.npy"}}, {"files": {"x": "x.npy"}}]}},
}


def test_every_file_that_any_configuration_names_is_told_once():
    assert data_file_names(serving(**OPTIONS)) == ("x.npy", "s.bin", "y.npy")
    assert data_file_names(serving()) == ()


@given(array=arrays.arrays(st.sampled_from(sorted(NUMPY_TYPES.values())), (2, 3)))
def test_an_npy_is_published_as_its_bare_elements(tmp_path_factory, array):
    folder = tmp_path_factory.mktemp("data")
    numpy.save(folder / "x.npy", array.astype(array.dtype.newbyteorder(">")))
    found = read_data_files("m", serving(warmup=[{"files": {"x": "x.npy"}}]), folder)["x.npy"]
    assert found.content == array.tobytes()
    assert NUMPY_TYPES[found.dtype] == array.dtype.name
    assert found.misfit(found.dtype, (2, 3)) is None
    assert found.misfit(found.dtype, (3, 2)) is not None


def test_texts_in_an_npy_travel_as_triton_wants_them(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.array(["größe", ""]))
    found = read_data_files("m", serving(warmup=[{"files": {"x": "x.npy"}}]), tmp_path)["x.npy"]
    assert decode_texts(found.content) == ["größe".encode(), b""]
    assert found.misfit("BYTES", (2,)) is None
    assert "holds BYTES, and INT64 is wanted" in found.misfit("INT64", (2,))


@pytest.mark.parametrize("content", [b"\x05\0\0\0abc", b"\x01"])
def test_bytes_that_are_no_texts_are_told(content):
    assert "takes 1" in DataFile("x.bin", content).misfit("BYTES", (1,))


def test_a_raw_file_must_have_the_tensor_s_length():
    file = DataFile("x.bin", bytes(8))
    assert file.misfit("INT64", (1,)) is None
    assert file.misfit("BF16", (4,)) is None
    assert file.misfit("INT64", (2,)) == "'x.bin' holds 8 bytes; INT64 of [2] takes 16"


def test_a_published_name_tells_by_content_and_needs_no_quoting():
    one, other = DataFile("a/b c.npy", b"1"), DataFile("d/b c.npy", b"2")
    assert one.published_name != other.published_name
    assert one.published_name.startswith("b_c-")
    assert DataFile("elsewhere/b c.npy", b"1").published_name == one.published_name


@pytest.mark.parametrize("content", [None, b"no array"])
def test_a_file_that_cannot_be_read_is_named(tmp_path, content):
    if content is not None:
        (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(InvalidModelConfig, match=r"data file 'x\.npy'"):
        read_data_files("m", serving(warmup=[{"files": {"x": "x.npy"}}]), tmp_path)


def test_an_npy_of_python_objects_is_not_unpickled(tmp_path):
    numpy.save(tmp_path / "x.npy", numpy.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(InvalidModelConfig, match="allow_pickle"):
        read_data_files("m", serving(warmup=[{"files": {"x": "x.npy"}}]), tmp_path)


def test_labels_lie_beside_the_configuration_whatever_the_output_is_called():
    assert label_file("scores") == "scores_labels.txt"
    names = ["../../y", "/head/y", "_head_y", "größe", "..", "a b"]
    files = [label_file(name) for name in names]
    assert len(set(files)) == len(names)
    assert not any("/" in file or file.startswith(".") for file in files)
