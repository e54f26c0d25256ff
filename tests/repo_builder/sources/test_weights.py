"""Files of weights: what is read, what is refused, and what the refusal says."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from repo_builder.sources.weights import load_weights, read_weights
from tritonfleet.errors import SourceUnavailable

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")


class Trap:
    """Says so when it is unpickled without restriction."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def linear() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Linear(4, 3)


@pytest.fixture
def weights():
    return linear().state_dict()


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt", "w.pth", "w.bin", "w.ckpt"])
def test_every_kind_of_file_gives_the_same_tensors(tmp_path, weights, name):
    from safetensors.torch import save_file

    (save_file if name.endswith("safetensors") else torch.save)(weights, tmp_path / name)
    assert same(read_weights("m", tmp_path / name), weights)


def test_a_folder_of_shards_is_read_whole(tmp_path, weights):
    from safetensors.torch import save_file

    for index, (key, value) in enumerate(weights.items()):
        save_file({key: value}, tmp_path / f"model-0000{index}.safetensors")
    assert same(read_weights("m", tmp_path), weights)


def test_the_format_before_archives_is_read_too(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pt", _use_new_zipfile_serialization=False)
    assert same(read_weights("m", tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("wrapper", ["state_dict", "model_state_dict"])
def test_what_a_training_loop_saved_around_the_weights_is_left_out(tmp_path, weights, wrapper):
    torch.save({wrapper: weights, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pt")
    assert same(read_weights("m", tmp_path / "w.pt"), weights)


@pytest.mark.parametrize("archive", [True, False])
def test_a_pickle_that_holds_more_is_refused_before_any_of_it_runs(tmp_path, weights, archive):
    marker = tmp_path / "it_ran"
    torch.save({**weights, "x": Trap(marker)}, tmp_path / "w.pt",
               _use_new_zipfile_serialization=archive)  # fmt: skip
    with pytest.raises(SourceUnavailable, match=r"more than tensors.*mkdir.*allow_pickle: true"):
        read_weights("m", tmp_path / "w.pt")
    assert not marker.exists()


def test_a_bare_pickle_is_refused_before_any_of_it_runs(tmp_path):
    marker = tmp_path / "it_ran"
    (tmp_path / "w.pt").write_bytes(pickle.dumps(Trap(marker)))
    with pytest.raises(SourceUnavailable):
        read_weights("m", tmp_path / "w.pt")
    assert not marker.exists()


def test_a_whole_module_is_read_when_pickles_are_allowed(tmp_path, weights):
    torch.save(linear(), tmp_path / "w.pt")
    with pytest.raises(SourceUnavailable, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_weights("m", tmp_path / "w.pt")
    assert same(read_weights("m", tmp_path / "w.pt", allow_pickle=True), weights)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {"a": {"b": torch.zeros(1)}}])
def test_what_is_no_state_dict_is_told(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(SourceUnavailable, match=r"is no state_dict.*module\.state_dict\(\)"):
        read_weights("m", tmp_path / "w.pt")


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_a_truncated_file_is_told(tmp_path, weights, name, share):
    from safetensors.torch import save_file

    path = tmp_path / name
    (save_file if name.endswith("safetensors") else torch.save)(weights, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SourceUnavailable, match=r"cannot be read: .*file is whole"):
        read_weights("m", path)


@pytest.mark.parametrize("name", ["w.h5", "w", "w.npz"])
def test_other_kinds_of_file_are_refused_with_those_that_are_read(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(SourceUnavailable, match=r"Known are \.safetensors, \.pt"):
        read_weights("m", tmp_path / name)


def test_an_empty_folder_is_told(tmp_path):
    with pytest.raises(SourceUnavailable, match=r"has no \*\.safetensors"):
        read_weights("m", tmp_path)


def test_weights_fill_the_module(weights):
    module = torch.nn.Linear(4, 3)
    load_weights("m", module, weights)
    assert same(module.state_dict(), weights)


def test_keys_that_lack_and_keys_too_many_are_listed_a_few_of_each(weights):
    many = {f"extra.{index}": torch.zeros(1) for index in range(5)}
    with pytest.raises(SourceUnavailable) as caught:
        load_weights("m", torch.nn.Linear(4, 3), {"weight": weights["weight"], **many})
    assert "lacks bias and has extra.0, extra.1, extra.2 and 2 more too many" in str(caught.value)


def test_other_sizes_are_told_with_both(weights):
    with pytest.raises(SourceUnavailable, match=r"size mismatch for weight.*\[3, 4\].*\[3, 5\]"):
        load_weights("m", torch.nn.Linear(5, 3), weights)
