"""From a repository to a fleet file, and from that to the same configurations."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import json_format, text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from repo_builder.config.render import read_data_files, read_labels, render_config
from repo_builder.importing.fleet_file import Import, import_models, render
from repo_builder.product import Product
from repo_builder.signature import Signature, Tensor, read_signature
from repo_builder.sources.ensemble import join, member_of
from tests.repo_builder.lint.builders import IDENTITY, change, onnx_model, python_model, write
from tests.repo_builder.lint.configs import messages
from tests.repo_builder.lint.test_ten_mistakes import ENSEMBLE
from tritonfleet.server.pbtxt import ModelConfig, parse_config
from tritonfleet.spec import FleetSpec, load_fleet

WARMUP = """model_warmup [{ name: "w" batch_size: 2 count: 3
  inputs { key: "x" value { data_type: TYPE_FP32 dims: [4] %s } } }]"""
EVERYTHING = (
    """
instance_group [{ name: "g" count: 2 kind: KIND_CPU rate_limiter {
  resources [{ name: "heavy" count: 2 global: true }] priority: 3 } }]
version_policy { latest { num_versions: 2 } }
dynamic_batching {
  preferred_batch_size: [4, 8] max_queue_delay_microseconds: 700 preserve_ordering: false
  priority_levels: 2 default_priority_level: 2
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 9
    allow_timeout_override: true max_queue_size: 7 }
  priority_queue_policy { key: 1 value { max_queue_size: 3 } }
}
optimization { graph { level: 1 } input_pinned_memory { enable: false }
  execution_accelerators { gpu_execution_accelerator [{ name: "tensorrt"
    parameters { key: "precision_mode" value: "FP16" } }] } }
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
metric_tags { key: "team" value: "search" }
response_cache { enable: true }
"""
    + WARMUP % "zero_data: true"
)


@pytest.fixture
def repository(tmp_path):
    return tmp_path / "repository"


def imported(repository: Path) -> tuple[FleetSpec, Import]:
    """The fleet of the file that an import of a repository gives."""
    result = import_models(repository, repository.parent)
    file = repository.parent / "fleet.yaml"
    file.write_text(render(result, repository, "fleet", "1GiB"), encoding="utf-8")
    return load_fleet(file), result


def rebuilt(fleet: FleetSpec, repository: Path, model: str = "m") -> object:
    """The configuration that the builder makes of an imported model."""
    base, serving = repository.parent, fleet.serving(model)
    product = _product(fleet, base, model, repository)
    labels = read_labels(model, serving, base)
    return render_config(model, product, serving, labels, read_data_files(model, serving, base))


def _product(fleet: FleetSpec, base: Path, model: str, repository: Path) -> Product:
    source = fleet.models[model].source
    if source.kind == "onnx":
        return Product("onnxruntime", read_signature(model, base / source.path))
    if source.kind == "ensemble":
        members = {
            step.model: member_of(step.model, rebuilt(fleet, repository, step.model).message, base)
            for step in source.steps
        }
        return join(model, source, members)
    sides = [
        tuple(Tensor(name, spec.dtype, spec.shape) for name, spec in given.items())
        for given in (source.inputs, source.outputs)
    ]
    return Product("python", Signature(*sides))


def original(repository: Path, model: str = "m") -> object:
    return parse_config(model, (repository / model / "config.pbtxt").read_text())


def normal(config) -> object:
    """With what the builder says in full and Triton assumes."""
    message = ModelConfig()
    message.CopyFrom(config)
    if not message.HasField("version_policy"):
        message.version_policy.latest.num_versions = 1
    if not message.ensemble_scheduling.step and not message.instance_group:
        message.instance_group.add(count=1)
    return message


def assert_comes_back(repository: Path, model: str = "m") -> None:
    fleet, result = imported(repository)
    assert result.left_out == {}
    assert normal(rebuilt(fleet, repository, model).message) == normal(original(repository, model))


@pytest.mark.parametrize("more", ["", EVERYTHING.replace("instance_group", "instance_group", 1)])
def test_an_onnx_model_comes_back_as_it_was(repository, more):
    config = IDENTITY.replace("instance_group [{{ count: 1 }}]", "") if more else IDENTITY
    onnx_model(repository, config=config, more=more)
    assert_comes_back(repository)


@pytest.mark.parametrize(
    "more",
    [
        "dynamic_batching { }",
        "version_policy { all { } }",
        "model_transaction_policy { decoupled: true }",
        "sequence_batching { oldest { max_candidate_sequences: 4 } "
        "max_sequence_idle_microseconds: 5 }",
        'model_operations { op_library_filename: "/opt/ops.so" }',
        'model_repository_agents { agents [{ name: "checksum" '
        'parameters { key: "MD5:config.pbtxt" value: "0" } }] }',
        'parameters { key: "path" value { string_value: "$$TRITON_MODEL_DIRECTORY/a" } }',
        WARMUP % "random_data: true",
    ],
)
def test_each_setting_of_a_python_model_comes_back(repository, more):
    python_model(repository, more=more)
    assert_comes_back(repository)


@pytest.mark.parametrize(
    "declared",
    [
        "dims: [-1] }]",
        "dims: [4] optional: true }]",
        "dims: [2, 2] reshape { shape: [4] } }]",
        "dims: [1] reshape { shape: [] } }]",
    ],
)
def test_each_option_of_an_input_comes_back(repository, declared):
    change(python_model(repository), "dims: [4] }]\noutput", f"{declared}\noutput")
    assert_comes_back(repository)


def test_a_ragged_batch_comes_back(repository):
    ragged = """dims: [-1] allow_ragged_batch: true }]
      batch_input [{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "ends"
        data_type: TYPE_FP32 source_input: "x" }]
      dynamic_batching { }"""
    sides = {"inputs": {"x": ["total"], "ends": ["rows"]}, "outputs": {"y": ["batch", 4]}}
    change(onnx_model(repository, **sides), "dims: [4] }]\noutput", f"{ragged}\noutput")
    assert_comes_back(repository)


def test_dims_that_were_narrowed_come_back(repository):
    sides = {"inputs": {"x": ["batch", "length"]}, "outputs": {"y": ["batch", "length"]}}
    onnx_model(repository, **sides)
    assert_comes_back(repository)


def test_states_of_sequences_come_back(repository):
    more = """sequence_batching { direct { } control_input [{ name: "s" control [{
        kind: CONTROL_SEQUENCE_START int32_false_true: [0, 1] }] }]
      state [{ input_name: "in" output_name: "out" data_type: TYPE_FP32 dims: [3]
        initial_state [{ name: "zeros" data_type: TYPE_FP32 dims: [3] zero_data: true }] }] }"""
    python_model(repository, more=more)
    assert_comes_back(repository)


def test_a_warm_up_with_a_file_comes_back_with_its_content(repository):
    more = WARMUP % 'input_data_file: "x.bin"'
    write(python_model(repository, more=more), {"warmup/x.bin": bytes(16)})
    fleet, _ = imported(repository)
    config = rebuilt(fleet, repository)
    name = config.message.model_warmup[0].inputs["x"].input_data_file
    assert config.files == {f"warmup/{name}": bytes(16)}


def test_a_warm_up_that_the_fleet_file_has_no_words_for_comes_back_as_extra(repository):
    model = python_model(repository, more=WARMUP % "zero_data: true")
    change(model, "dims: [4] }]\noutput", "dims: [-1] }, { name: 'z' data_type: TYPE_FP32 dims: "
           "[-1] }]\noutput")  # fmt: skip
    change(model, "inputs {", 'inputs { key: "z" value { data_type: TYPE_FP32 dims: [5] '
           "zero_data: true } } inputs {")  # fmt: skip
    fleet, _ = imported(repository)
    assert "model_warmup" in fleet.models["m"].serving.extra
    assert_comes_back(repository)


def test_labels_come_back(repository):
    change(onnx_model(repository), "dims: [4] }]\ninstance",
           'dims: [4] label_filename: "y_labels.txt" }]\ninstance')  # fmt: skip
    write(repository / "m", {"y_labels.txt": "a\nb\nc\nd\n"})
    assert_comes_back(repository)


def test_ensembles_come_back_with_their_members(repository):
    onnx_model(repository, "first")
    python_model(repository, "second")
    write(repository / "pipeline", {"config.pbtxt": ENSEMBLE, "1/.keep": ""})
    assert_comes_back(repository, "pipeline")


def test_an_output_that_was_not_taken_does_not_join_by_its_name(repository):
    onnx_model(repository, "first")
    more = "dims: [4] }, { name: 'y' data_type: TYPE_FP32 dims: [1] }]\n"
    model = python_model(repository, "second")
    change(model, 'output [{ name: "y"', 'output [{ name: "z"')
    text = (model / "config.pbtxt").read_text()
    (model / "config.pbtxt").write_text(text[: text.rindex("dims")] + more)
    ensemble = ENSEMBLE.replace('"between"', '"y"').replace('{ key: "y" value: "y" } }\n  ]',
                                '{ key: "z" value: "z" } }\n  ]')  # fmt: skip
    ensemble = ensemble.replace('output [{ name: "y"', 'output [{ name: "z"')
    write(repository / "pipeline", {"config.pbtxt": ensemble, "1/.keep": ""})
    assert_comes_back(repository, "pipeline")


def test_other_configurations_come_back(repository):
    model = onnx_model(repository, more="dynamic_batching { max_queue_delay_microseconds: 5 }")
    other = (model / "config.pbtxt").read_text().replace("count: 1", "count: 3")
    write(model, {"configs/big.pbtxt": other.partition("dynamic_batching")[0]})
    fleet, _ = imported(repository)
    text = rebuilt(fleet, repository).files["configs/big.pbtxt"]
    expected = parse_config("m", (model / "configs" / "big.pbtxt").read_text())
    assert normal(parse_config("m", text)) == normal(expected)


def test_the_newest_version_is_taken(repository):
    model = onnx_model(repository)
    (model / "1").rename(model / "10")
    write(model, {"9/model.onnx": b"older"})
    assert imported(repository)[0].models["m"].source.path == "repository/m/10/model.onnx"


def test_a_torchscript_model_keeps_its_backend(repository):
    model = python_model(repository)
    change(model, 'backend: "python"', 'platform: "pytorch_libtorch"')
    (model / "1" / "model.py").rename(model / "1" / "model.pt")
    spec = imported(repository)[0].models["m"]
    assert (spec.source.kind, spec.source.path) == ("torchscript", "repository/m/1/model.pt")
    assert spec.source.inputs["x"].shape == ("batch", 4)
    assert spec.export.exporter == "pytorch"


def test_a_model_that_its_backend_completes_needs_no_configuration(repository):
    (onnx_model(repository) / "config.pbtxt").unlink()
    fleet, result = imported(repository)
    assert fleet.models["m"].serving.model_dump(exclude_unset=True) == {}
    assert "had no config.pbtxt" in result.models["m"].notes[0]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("name:", "nam:", "does not parse"),
        ('"python"', '"tensorrt"', "an engine is made for one GPU"),
        ('"python"', '"vllm"', "loads a checkpoint by itself"),
        ('"python"', '"own"', "no source for the backend 'own'"),
        ('"python"', '"onnxruntime"', "1/model.onnx is not there"),
        ("max_batch_size: 8", 'max_batch_size: 8 default_model_filename: "my.py"', "is not there"),
        ("max_batch_size: 8", "max_batch_size: 8 dynamic_batching { preferred_batch_size: 9 }",
         "above max_batch_size"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_left_out_with_the_reason(repository, old, new, reason):
    change(python_model(repository), old, new)
    python_model(repository, "second")
    python_model(repository, "first")
    write(repository / "pipeline", {"config.pbtxt": ENSEMBLE, "1/.keep": ""})
    fleet, result = imported(repository)
    assert set(fleet.models) == {"first", "second", "pipeline"}
    assert reason in result.left_out["m"]
    assert f"#   m: {result.left_out['m']}" in (repository.parent / "fleet.yaml").read_text()


def test_ensembles_above_what_is_left_out_are_left_out(repository):
    onnx_model(repository, "first")
    change(python_model(repository, "second"), '"python"', '"own"')
    write(repository / "pipeline", {"config.pbtxt": ENSEMBLE, "1/.keep": ""})
    above = ENSEMBLE.replace('name: "pipeline"', 'name: "above"').replace('"second"', '"pipeline"')
    write(repository / "above", {"config.pbtxt": above, "1/.keep": ""})
    fleet, result = imported(repository)
    assert set(fleet.models) == {"first"}
    assert result.left_out["pipeline"] == "its member 'second' is left out"
    assert result.left_out["above"] == "its member 'pipeline' is left out"


def test_what_changes_is_told_beside_the_model(repository):
    onnx_model(repository, outputs={"y": ["batch", 4], "z": ["batch", 4]},
               more="version_policy { specific { versions: [1] } }")  # fmt: skip
    imported(repository)
    text = (repository.parent / "fleet.yaml").read_text()
    assert "# m served the versions 1; builds number theirs anew." in text
    assert "# m also gives z, which was not declared and will be." in text


@settings(max_examples=100, deadline=None)
@given(config=messages(ModelConfig.DESCRIPTOR), file=st.sampled_from(["model.onnx", "model.py"]))
def test_no_configuration_stops_an_import(tmp_path_factory, config, file):
    repository = tmp_path_factory.mktemp("base") / "repository"
    onnx_model(repository, "other")
    text = text_format.MessageToString(json_format.ParseDict(config, ModelConfig()))
    content = (repository / "other" / "1" / "model.onnx").read_bytes()
    write(repository / "m", {"config.pbtxt": text, f"1/{file}": content})
    fleet, result = imported(repository)
    assert "other" in fleet.models
    assert ("m" in fleet.models) != ("m" in result.left_out)
