from __future__ import annotations

import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.repo_builder.lint.builders import (
    IDENTITY,
    PYTHON,
    change,
    external,
    found,
    onnx_bytes,
    onnx_model,
    python_model,
    told,
    write,
)

INPUT = 'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]'
OUTPUT = 'output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]'
NO_BATCH = {"inputs": {"x": [4]}, "outputs": {"y": [4]}}


@pytest.fixture
def model(tmp_path):
    return onnx_model(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "rules"),
    [
        (INPUT, INPUT.replace('"x"', '"xx"'), ["missing-input", "unknown-tensor"]),
        (OUTPUT, OUTPUT.replace('"y"', '"yy"'), ["unknown-tensor", "undeclared-output"]),
        (INPUT, INPUT.replace("FP32", "FP16"), ["wrong-type"]),
        (OUTPUT, OUTPUT.replace("FP32", "STRING"), ["wrong-type"]),
        (INPUT, INPUT.replace("[4]", "[-1]"), ["wrong-shape"]),
        (INPUT, INPUT.replace("[4]", "[4, 1]"), ["wrong-shape"]),
        (INPUT, INPUT.replace("[4]", "[2, 2] reshape { shape: [4] }"), []),
        (INPUT, INPUT.replace("[4]", "[4] reshape { shape: [2, 2] }"), ["wrong-shape"]),
    ],
)
def test_declared_tensors_are_held_against_the_model(model, old, new, rules):
    change(model, old, new)
    assert found(model.parent) == rules


def test_a_size_that_the_model_leaves_open_may_be_fixed(tmp_path):
    sides = {"inputs": {"x": ["batch", "length"]}, "outputs": {"y": ["batch", "length"]}}
    onnx_model(tmp_path, **sides)
    assert told(tmp_path) == ""


def test_a_fixed_size_declared_open_is_told_with_the_reason(model):
    change(model, INPUT, INPUT.replace("[4]", "[-1]"))
    assert "the server refuses -1 for it" in told(model.parent)


@pytest.mark.parametrize("text", [INPUT.replace("[4]", "[1]"), INPUT.replace("[4]", "[1] "
                                  "reshape { shape: [] }")])  # fmt: skip
def test_a_scalar_is_one_element_to_triton(tmp_path, text):
    config = IDENTITY.replace("8", "0", 1).replace(INPUT.replace("{", "{{").replace("}", "}}"),
                              text.replace("{", "{{").replace("}", "}}"))  # fmt: skip
    onnx_model(tmp_path, config=config, inputs={"x": []}, outputs={"y": [4]})
    assert told(tmp_path) == ""


@pytest.mark.parametrize(
    ("sides", "rules"),
    [
        ({"inputs": {"x": [1, 4]}, "outputs": {"y": [1, 4]}}, ["batch-dimension"] * 2),
        ({"inputs": {"x": ["a", 4]}, "outputs": {"y": ["b", 4]}}, ["batch-mixed"]),
        ({"inputs": {"x": [None, 4]}, "outputs": {"y": [None, 4]}}, []),
    ],
)
def test_a_batch_needs_a_leading_dimension_that_all_share(tmp_path, sides, rules):
    onnx_model(tmp_path, **sides)
    assert found(tmp_path) == rules


def test_a_batch_that_is_also_a_width_is_found(tmp_path):
    model = onnx_model(tmp_path, outputs={"y": ["batch", "batch"]})
    assert "rows get mixed" in told(model.parent)


def test_without_a_batch_whole_shapes_are_compared(tmp_path):
    change(onnx_model(tmp_path, **NO_BATCH), "max_batch_size: 8", "max_batch_size: 0")
    assert told(tmp_path) == ""


def test_inputs_that_triton_itself_gives_need_not_be_declared(tmp_path):
    more = """sequence_batching { control_input [{ name: "start" control [{
      kind: CONTROL_SEQUENCE_START fp32_false_true: [0, 1] }] }]
      state [{ input_name: "s" output_name: "t" data_type: TYPE_FP32 dims: [4] }] }"""
    inputs = {name: ["batch", 4] for name in ("x", "start", "s")}
    onnx_model(tmp_path, more=more, inputs=inputs,
               outputs={name: ["batch", 4] for name in ("y", "t")})  # fmt: skip
    assert told(tmp_path) == ""


def test_an_input_with_a_default_may_be_declared_or_not(tmp_path):
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], [1.0] * 4)
    model = onnx_model(tmp_path, inputs={"x": ["batch", 4], "w": [4]}, initializers=(weight,))
    assert told(tmp_path) == ""
    change(model, INPUT, INPUT + INPUT.replace('"x"', '"w"'))
    assert told(tmp_path) == ""


def test_every_served_version_is_looked_at(tmp_path):
    model = onnx_model(tmp_path, more="version_policy { all { } }")
    write(model, {"2/model.onnx": onnx_bytes(dtype=TensorProto.DOUBLE)})
    assert found(tmp_path) == ["wrong-type", "wrong-type"]
    change(model, "all { }", "specific { versions: 1 }")
    assert found(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"", "no graph"),
        (b"\xff\xff\xff garbage", "cannot be read"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "Git LFS"),
    ],
)
def test_a_file_that_is_no_model_is_found(model, content, cause):
    write(model, {"1/model.onnx": content})
    assert found(model.parent) == ["damaged-file"]
    assert cause in told(model.parent)


def test_a_type_that_triton_cannot_serve_is_found(tmp_path):
    onnx_model(tmp_path, dtype=TensorProto.COMPLEX64)
    assert found(tmp_path) == ["wrong-type"]
    assert "COMPLEX64" in told(tmp_path)


class TestExternalData:
    def folder(self, tmp_path, location, length=16):
        weights = (external(location, length),)
        return onnx_model(tmp_path / "repository", initializers=weights)

    def test_weights_beside_the_file_are_no_mistake(self, tmp_path):
        model = self.folder(tmp_path, "model.onnx.data")
        write(model, {"1/model.onnx.data": bytes(16)})
        assert told(model.parent) == ""

    def test_missing_weights_are_found(self, tmp_path):
        model = self.folder(tmp_path, "model.onnx.data")
        assert "which is not there" in told(model.parent)

    def test_weights_that_end_early_are_found(self, tmp_path):
        model = self.folder(tmp_path, "model.onnx.data", length=32)
        write(model, {"1/model.onnx.data": bytes(16)})
        assert "ends before the weights do" in told(model.parent)

    @pytest.mark.parametrize("location", ["../weights", "/etc/hostname", ""])
    def test_weights_outside_the_folder_are_found(self, tmp_path, location):
        model = self.folder(tmp_path, location)
        write(model, {"weights": bytes(16)})
        assert found(model.parent) == ["external-data"]

    def test_weights_behind_a_link_out_of_the_folder_are_found(self, tmp_path):
        model = self.folder(tmp_path, "model.onnx.data")
        write(model, {"weights": bytes(16)})
        (model / "1" / "model.onnx.data").symlink_to("../weights")
        assert found(model.parent) == ["external-data"]

    def test_weights_of_a_constant_inside_a_node_are_seen(self, tmp_path):
        model = onnx_model(tmp_path)
        graph = helper.make_graph(
            [helper.make_node("Constant", [], ["y"], value=external("absent"))],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        )
        opsets = [helper.make_opsetid("", 20)]
        proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        write(model, {"1/model.onnx": proto.SerializeToString()})
        assert found(tmp_path) == ["external-data"]


@pytest.mark.parametrize(
    ("release", "opset", "ir_version", "rules"),
    [
        ("24.10", 21, 10, []),
        ("24.10", 22, 10, ["onnx-too-new"]),
        ("24.10", 22, 11, ["onnx-too-new"] * 2),
        ("25.03", 22, 10, []),
        ("24.04", 20, 10, ["onnx-too-new"]),
        (None, 26, 13, []),
        (None, 28, 14, ["onnx-too-new"] * 2),
    ],
)
def test_a_file_newer_than_the_release_reads_is_found(tmp_path, release, opset, ir_version, rules):
    onnx_model(tmp_path, opset=opset, ir_version=ir_version)
    assert found(tmp_path, triton_release=release) == rules


class TestFiles:
    def test_a_missing_file_is_found(self, model):
        (model / "1" / "model.onnx").unlink()
        assert found(model.parent) == ["missing-file"]

    def test_a_file_of_another_name_is_looked_for(self, tmp_path):
        model = onnx_model(tmp_path, more='default_model_filename: "net.onnx"')
        assert found(tmp_path) == ["missing-file"]
        (model / "1" / "model.onnx").rename(model / "1" / "net.onnx")
        assert told(tmp_path) == ""

    def test_a_folder_with_the_file_in_it_is_no_mistake(self, model):
        (model / "1" / "model.onnx").rename(model / "1" / "m")
        write(model, {"1/model.onnx/model.onnx": (model / "1" / "m").read_bytes()})
        assert told(model.parent) == ""

    @pytest.mark.parametrize("name", ["../model.onnx", "/model.onnx"])
    def test_a_name_that_leaves_the_folder_is_found(self, tmp_path, name):
        onnx_model(tmp_path, more=f'default_model_filename: "{name}"')
        assert found(tmp_path) == ["path-outside"]

    def test_each_file_for_a_compute_capability_is_looked_for(self, tmp_path):
        more = 'cc_model_filenames [{ key: "9.0" value: "h.plan" }, { key: "8.0" value: "a.plan" }]'
        config = PYTHON.replace('"python"', '"tensorrt"')
        write(
            tmp_path / "m", {"config.pbtxt": config.format(name="m") + more, "1/h.plan": "engine"}
        )
        assert told(tmp_path).startswith("m missing-file 1/a.plan")

    @pytest.mark.parametrize(
        ("platform", "name"),
        [
            ("tensorrt_plan", "model.plan"),
            ("pytorch_libtorch", "model.pt"),
            ("tensorflow_graphdef", "model.graphdef"),
            ("tensorflow_savedmodel", "model.savedmodel"),
        ],
    )
    def test_each_platform_has_its_file(self, tmp_path, platform, name):
        config = PYTHON.replace('backend: "python"', f'platform: "{platform}"') + GROUP
        model = write(tmp_path / "m", {"config.pbtxt": config.format(name="m"), "1/.keep": ""})
        assert told(tmp_path).startswith(f"m missing-file 1/{name}")
        write(model, {f"1/{name}": "x"})
        assert told(tmp_path) == ""

    def test_an_empty_file_is_found(self, tmp_path):
        config = PYTHON.replace('"python"', '"pytorch"')
        write(tmp_path / "m", {"config.pbtxt": config.format(name="m"), "1/model.pt": ""})
        assert found(tmp_path) == ["damaged-file"]

    def test_only_the_backend_itself_knows_the_files_of_an_unknown_one(self, tmp_path):
        config = PYTHON.replace('"python"', '"own"')
        write(tmp_path / "m", {"config.pbtxt": config.format(name="m"), "1/.keep": ""})
        assert told(tmp_path) == ""


GROUP = "instance_group [{{ count: 1 }}]"


class TestBackend:
    def test_the_backend_is_told_by_the_file(self, model):
        change(model, 'backend: "onnxruntime"', "")
        assert told(model.parent) == ""

    def test_no_backend_at_all_is_found(self, tmp_path):
        change(python_model(tmp_path), 'backend: "python"', 'platform: "pyton"')
        assert found(tmp_path) == ["backend"]

    def test_a_backend_of_another_platform_is_found(self, model):
        change(model, 'backend: "onnxruntime"', 'backend: "onnxruntime" platform: "tensorrt_plan"')
        assert found(model.parent) == ["backend"]

    def test_a_runtime_that_not_every_server_has_is_found(self, tmp_path):
        onnx_model(tmp_path, more='runtime: "libtriton_onnxruntime.so"')
        assert found(tmp_path) == ["runtime"]


class TestPython:
    @pytest.mark.parametrize(
        "code",
        ["def (", "x = 1", "class Model:\n    pass", "\0"],
    )
    def test_code_that_the_backend_cannot_run_is_found(self, tmp_path, code):
        python_model(tmp_path, code=code)
        assert found(tmp_path) == ["python-code"]

    @pytest.mark.parametrize(
        "code",
        [
            "from .real import TritonPythonModel",
            "from real import Model as TritonPythonModel",
            "from real import *",
            "import real\nTritonPythonModel = real.Model",
            "if True:\n    class TritonPythonModel: ...",
        ],
    )
    def test_a_class_from_elsewhere_is_no_mistake(self, tmp_path, code):
        python_model(tmp_path, code=code)
        assert told(tmp_path) == ""

    @pytest.mark.parametrize("value", ["/opt/env.tar.gz", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"])
    def test_an_environment_in_the_folder_has_to_be_there(self, tmp_path, value):
        more = f'parameters {{ key: "EXECUTION_ENV_PATH" value {{ string_value: "{value}" }} }}'
        model = python_model(tmp_path, more=more)
        assert found(tmp_path) == (["execution-env"] if value.startswith("$$") else [])
        write(model, {"env.tar.gz": "x"})
        assert found(tmp_path) == []


def test_a_weight_inside_the_file_is_no_external_one(tmp_path):
    import numpy

    weight = numpy_helper.from_array(numpy.zeros(4, numpy.float32), "w")
    onnx_model(tmp_path, initializers=(weight,))
    assert told(tmp_path) == ""
