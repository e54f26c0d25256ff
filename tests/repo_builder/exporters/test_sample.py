from __future__ import annotations

import pytest

from repo_builder.exporters.sample import (
    check_ready,
    observed_outputs,
    sample_arguments,
    sample_sizes,
)
from repo_builder.sources.base import Checkpoint, InputField
from tests.repo_builder.exporters.modules import ROWS, SEQUENCES, checkpoint
from tritonfleet.errors import ExportFailed

pytestmark = pytest.mark.build
torch = pytest.importorskip("torch")
TWO = {"x": InputField("FP32", ("batch", "first")), "z": InputField("FP32", ("batch", "second"))}


def two(function, **more) -> Checkpoint:
    module = torch.nn.Module()
    module.forward = function
    return Checkpoint(module.eval(), TWO, ("y",), **more)


def shape(made: Checkpoint):
    return observed_outputs("m", made.module, made)[0].shape


def test_dimensions_have_different_sizes_so_that_none_is_taken_for_another():
    sizes = sample_sizes(two(lambda x, z: x))
    assert len(set(sizes.values())) == 3 and min(sizes.values()) > 1


def test_no_sample_is_longer_than_the_model_takes():
    assert sample_sizes(two(lambda x, z: x, longest=5))["first"] == 5


def test_sizes_that_the_source_names_are_kept_to():
    sizes = sample_sizes(two(lambda x, z: x, sizes={"first": (32, 64)}))
    assert sizes["first"] == 64


def test_the_same_seed_gives_the_same_sample():
    made = two(lambda x, z: x)
    sizes = sample_sizes(made)
    one, same, other = (sample_arguments(made, sizes, seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, z: x, ("batch", "first")),
        (lambda x, z: x[:, :3], ("batch", 3)),
        (lambda x, z: x.T @ z, ("first", "second")),
        (lambda x, z: torch.cat([x, z], 1), ("batch", "?")),
        (lambda x, z: x[:, ::2], ("batch", "?")),
        (lambda x, z: x.sum(), ()),
    ],
    ids=["same", "fixed", "swapped", "sum", "half", "scalar"],
)
def test_an_axis_is_called_after_the_dimension_that_it_follows(function, expected):
    assert shape(two(function)) == expected


@pytest.mark.parametrize(
    ("function", "dtype"),
    [
        (lambda m, x: x.argmax(-1), "INT64"),
        (lambda m, x: x > 0, "BOOL"),
        (lambda m, x: x.half(), "FP16"),
        (lambda m, x: x.to(torch.uint8), "UINT8"),
    ],
)
def test_types_are_called_as_triton_does(function, dtype):
    made = checkpoint(function)
    assert observed_outputs("m", made.module, made)[0].dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.complex64])
def test_a_type_that_no_request_can_carry_is_refused(dtype):
    made = checkpoint(lambda m, x: x.to(dtype))
    with pytest.raises(ExportFailed, match=str(dtype).removeprefix("torch.")):
        observed_outputs("m", made.module, made)


@pytest.mark.parametrize("result", [{"y": 1}, None, 3.0, ("text",)])
def test_what_is_no_tensor_is_told_before_any_exporter_runs(result):
    with pytest.raises(ExportFailed, match=r"its forward returns .* Return a tensor"):
        check_ready("m", checkpoint(lambda m, x: result))


def test_wrong_inputs_are_told_with_the_sample_that_failed():
    made = checkpoint(lambda m, x: m.linear(x.flatten(1)), SEQUENCES)
    with pytest.raises(ExportFailed, match=r"declared inputs \(x FP32\[2, 8, 4\]\).*2x32 and 4x4"):
        check_ready("m", made)


def test_a_ready_module_passes():
    check_ready("m", checkpoint(lambda m, x: m.linear(x), ROWS))
