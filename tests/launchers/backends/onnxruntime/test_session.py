"""What config.pbtxt says is done, and what it says wrongly is told in one sentence."""

from __future__ import annotations

import numpy
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tests.launchers import onnx_models
from tritonfleet.launchers.backends.onnxruntime import session as session_module
from tritonfleet.launchers.backends.onnxruntime.session import (
    ReleasableSession,
    SessionSettings,
    contradictions,
    model_file,
    open_session,
    settings_from,
)


def tensor(name, data_type="TYPE_FP32", dims=(-1,), **more):
    return {"name": name, "data_type": data_type, "dims": list(dims), **more}


def config(inputs=None, outputs=None, max_batch_size=8, **more):
    return {
        "max_batch_size": max_batch_size,
        "input": [tensor("x")] if inputs is None else inputs,
        "output": [tensor("y")] if outputs is None else outputs,
        **more,
    }


def parameters(**given):
    return {"parameters": {key: {"string_value": value} for key, value in given.items()}}


def problems(model: bytes, **changes):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return contradictions(config(**changes), session)


def test_one_thread_unless_told_otherwise():
    assert settings_from(config()) == SessionSettings()
    assert SessionSettings().intra_op_thread_count == 1


def test_the_official_parameters_are_honoured():
    settings = settings_from(
        config(
            optimization={"graph": {"level": -1}},
            **parameters(
                intra_op_thread_count="4",
                inter_op_thread_count="2",
                execution_mode="1",
                enable_mem_arena="0",
                enable_mem_pattern="false",
            ),
        )
    )
    assert settings == SessionSettings(4, 2, 1, -1, False, False)


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL),
        (-1, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC),
        (1, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED),
        (2, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL),
    ],
)
def test_graph_levels_mean_what_they_mean_in_the_official_backend(level, expected):
    options = session_module._session_options(SessionSettings(graph_level=level))
    assert options.graph_optimization_level == expected


def test_settings_reach_onnx_runtime():
    options = session_module._session_options(SessionSettings(3, 2, 1, 0, False, False))
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 2
    assert options.execution_mode == onnxruntime.ExecutionMode.ORT_PARALLEL
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("intra_op_thread_count", "many", "it must be a whole number"),
        ("intra_op_thread_count", "-1", "it must be a whole number"),
        ("execution_mode", "2", "it must be 0 or 1"),
        ("enable_mem_arena", "maybe", "it must be 0 or 1"),
    ],
)
def test_a_parameter_that_makes_no_sense_is_named(key, value, expected):
    with pytest.raises(ValueError, match=f"'{key}' is '{value}' in config.pbtxt; {expected}"):
        settings_from(config(**parameters(**{key: value})))


def test_the_file_is_model_onnx_or_what_the_configuration_says(tmp_path):
    for name in ("model.onnx", "int8.onnx"):
        (tmp_path / name).touch()
    assert model_file(config(), tmp_path).name == "model.onnx"
    assert model_file(config(default_model_filename="int8.onnx"), tmp_path).name == "int8.onnx"


def test_a_folder_of_that_name_may_hold_the_file(tmp_path):
    (tmp_path / "model.onnx").mkdir()
    (tmp_path / "model.onnx" / "model.onnx").touch()
    assert model_file(config(), tmp_path) == tmp_path / "model.onnx" / "model.onnx"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=rf"{tmp_path}/model\.onnx is missing"):
        open_session(config(), tmp_path)


@pytest.mark.parametrize("damage", [lambda model: b"", lambda model: model[: len(model) // 2]])
def test_a_damaged_file_is_named(tmp_path, damage):
    (tmp_path / "model.onnx").write_bytes(damage(onnx_models.doubler()))
    with pytest.raises(ValueError, match=rf"cannot open {tmp_path}/model\.onnx: "):
        open_session(config(), tmp_path)


def test_all_contradictions_are_told_at_once(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_models.doubler())
    wrong = config([tensor("x", "TYPE_INT64")], [tensor("z")])
    with pytest.raises(ValueError) as caught:
        open_session(wrong, tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}/model.onnx contradicts config.pbtxt: "
        "input 'x' is TYPE_FP32, not TYPE_INT64; it has no output 'z' (it has y)"
    )


def test_agreement_has_nothing_to_tell():
    assert problems(onnx_models.doubler()) == []


def test_an_input_the_configuration_forgot_is_named():
    assert problems(onnx_models.doubler(), inputs=[]) == [
        "it needs input 'x', which config.pbtxt does not have"
    ]


def test_an_input_the_model_does_not_have_is_named():
    found = problems(onnx_models.doubler(), inputs=[tensor("x"), tensor("mask")])
    assert found == ["it has no input 'mask' (it has x)"]


@pytest.mark.parametrize(
    ("shape", "dims", "max_batch_size", "told"),
    [
        (["batch", 4], [5], 8, "has shape [-1, 4], not [-1, 5]"),
        (["batch", 4], [-1], 8, "has shape [-1, 4], not [-1, -1]"),
        (["batch", 4], [2, 2], 8, "has shape [-1, 4], not [-1, 2, 2]"),
        ([1, 4], [4], 8, "has shape [1, 4], not [-1, 4]"),
    ],
)
def test_a_shape_that_cannot_be_is_told(shape, dims, max_batch_size, told):
    found = problems(
        onnx_models.doubler(shape=shape),
        inputs=[tensor("x", dims=dims)],
        outputs=[tensor("y", dims=dims)],
        max_batch_size=max_batch_size,
    )
    assert found == [f"input 'x' {told}", f"output 'y' {told}"]


@pytest.mark.parametrize(
    ("shape", "dims", "max_batch_size"),
    [
        (["batch", 4], [4], 8),
        (["batch", "n"], [7], 8),
        ([1, 4], [1, 4], 0),
        (None, [3, 3], 8),
    ],
)
def test_a_shape_that_can_be_is_accepted(shape, dims, max_batch_size):
    io = {"inputs": [tensor("x", dims=dims)], "outputs": [tensor("y", dims=dims)]}
    assert problems(onnx_models.doubler(shape=shape), max_batch_size=max_batch_size, **io) == []


def test_reshaped_tensors_reach_the_model_in_their_other_shape():
    reshaped = {"dims": [1], "reshape": {"shape": []}}
    io = {"inputs": [tensor("x", **reshaped)], "outputs": [tensor("y", **reshaped)]}
    assert problems(onnx_models.doubler(shape=["batch"]), **io) == []


def test_a_type_that_triton_cannot_carry_is_told():
    node = helper.make_node("SequenceConstruct", ["x"], ["y"])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "n"])
    y = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 20)]
    proto = helper.make_model(
        helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=10
    )
    (found,) = problems(proto.SerializeToString())
    assert found == "output 'y' is seq(tensor(float)), which this backend cannot carry"


def test_bfloat16_is_told_because_numpy_has_no_such_type():
    io = {"inputs": [tensor("x", "TYPE_BF16")], "outputs": [tensor("y", "TYPE_BF16")]}
    found = problems(onnx_models.identity(TensorProto.BFLOAT16), **io)
    assert found[0] == "input 'x' is tensor(bfloat16), which this backend cannot carry"


@pytest.fixture
def releasable(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_models.doubler())
    return ReleasableSession(config(), tmp_path)


def double(session, value=3.0):
    return session.run(["y"], {"x": numpy.full((1, 1), value, numpy.float32)})[0].item()


def test_a_released_session_comes_back_with_the_next_run(releasable):
    assert double(releasable) == 6
    releasable.release()
    assert releasable._session is None
    assert double(releasable) == 6


def test_releasing_twice_is_harmless(releasable):
    releasable.release()
    releasable.release()
    assert double(releasable) == 6


def test_a_session_without_arena_runs_too(tmp_path):
    (tmp_path / "model.onnx").write_bytes(onnx_models.doubler())
    assert double(ReleasableSession(config(**parameters(enable_mem_arena="0")), tmp_path)) == 6
