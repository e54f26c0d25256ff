"""What the linter calls an error, a real tritonserver refuses; what it lets pass, that loads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tritonclient.utils import InferenceServerException

from repo_builder.lint.linter import lint
from tests.launchers.conftest import Client
from tests.repo_builder.lint.builders import (
    IDENTITY,
    PYTHON,
    change,
    onnx_model,
    python_model,
    write,
)
from tests.repo_builder.lint.test_ten_mistakes import ENSEMBLE
from tritonfleet.launchers.base import LaunchOptions
from tritonfleet.launchers.embedded import EmbeddedLauncher

pytestmark = pytest.mark.triton

CODE = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        tensors = [pb_utils.get_input_tensor_by_name(each, "x").as_numpy() for each in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("y", each)]) for each in tensors]
"""
INPUT = 'input [{ name: "x" data_type: TYPE_FP32 dims: [4] }]'
OUTPUT = 'output [{ name: "y" data_type: TYPE_FP32 dims: [4] }]'
WARMUP = """model_warmup [{ name: "w" batch_size: %d
  inputs { key: "x" value { data_type: %s dims: [%s] %s } } }]"""
SECOND = 'input_map { key: "x" value: "between" } output_map { key: "y" value: "y" }'

PYTHON_MODELS = {
    "": "",
    "dynamic_batching { preferred_batch_size: 8 }": "",
    "dynamic_batching { default_priority_level: 1 }": "priority-ignored",
    "dynamic_batching { preferred_batch_size: 9 }": "preferred-batch-size",
    "dynamic_batching { preferred_batch_size: 0 }": "preferred-batch-size",
    "dynamic_batching { priority_levels: 2 }": "priority-levels",
    "dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }": (
        "preserve-ordering"
    ),
    "sequence_batching { direct { minimum_slot_utilization: 50 } }": "slot-utilization",
    "response_cache { enable: true } model_transaction_policy { decoupled: true }": "cache-refused",
    "response_cache { enable: true } sequence_batching { direct { } }": "cache-refused",
    "instance_group [{ count: 1 kind: KIND_CPU gpus: [0] }]": "instance-gpus",
    'instance_group [{ count: 1 profile: ["0"] }]': "instance-profile",
    "version_policy { specific { versions: [7] } }": "policy-serves-nothing",
    "version_policy { latest { num_versions: 0 } }": "policy-serves-nothing",
    WARMUP % (8, "TYPE_FP32", "4", "zero_data: true"): "",
    WARMUP % (8, "TYPE_FP32", "5", "zero_data: true"): "warmup-shape",
    WARMUP % (8, "TYPE_INT32", "4", "zero_data: true"): "warmup-shape",
    WARMUP % (9, "TYPE_FP32", "4", "zero_data: true"): "warmup-batch",
    WARMUP % (8, "TYPE_FP32", "4", 'input_data_file: "absent"'): "warmup-file",
    'model_warmup [{ name: "w" batch_size: 1 }]': "warmup-inputs",
}
"""What is added to a correct python model, and the rule that it breaks."""
EDITED = {
    "tensor-name": ('name: "x"', ""),
    "tensor-type": (INPUT, INPUT.replace("data_type: TYPE_FP32", "")),
    "tensor-dims": (INPUT, INPUT.replace("[4]", "[0]")),
    "reshape": (INPUT, INPUT.replace("[4]", "[4] reshape { shape: [3] }")),
    "batch-size": ("max_batch_size: 8", "max_batch_size: -1"),
    "backend": ('backend: "python"', 'platform: "pyton"'),
    "label-file": (OUTPUT, OUTPUT.replace("[4]", '[4] label_filename: "absent.txt"')),
}
"""What is changed in a correct python model, by the rule that it breaks."""
ONNX_MODELS = {
    "wrong-type": (INPUT, INPUT.replace("FP32", "INT64")),
    "wrong-shape": (INPUT, INPUT.replace("[4]", "[-1]")),
    "missing-input": (INPUT, INPUT.replace('"x"', '"z"')),
    "unknown-tensor": (OUTPUT, OUTPUT.replace('"y"', '"z"')),
}
ENSEMBLES = {
    "": ("", ""),
    "unknown-member": ('"second"', '"absent"'),
    "member-version": ('"second" model_version: -1', '"second" model_version: 7'),
    "step-tensor": (SECOND, SECOND.replace('key: "x"', 'key: "z"')),
    "unreachable-step": (SECOND, SECOND.replace('"between"', '"betwen"')),
    "idle-step": (SECOND, SECOND.replace('"between"', '"x"')),
    "output-unmade": (SECOND, SECOND.replace('value: "y"', 'value: "z"')),
    "written-twice": ('value: "between" } },', 'value: "x" } },'),
    "input-unused": (INPUT, INPUT[:-1] + ', { name: "z" data_type: TYPE_FP32 dims: [1] }]'),
    "ensemble-option": ("max_batch_size: 8", "max_batch_size: 8 instance_group [{ count: 1 }]"),
    "member-batch": ("max_batch_size: 8", "max_batch_size: 16"),
    "joint-type": (INPUT, INPUT.replace("FP32", "INT64")),
    "joint-shape": (INPUT, INPUT.replace("[4]", "[5]")),
}


def write_models(repository: Path) -> dict[str, str]:
    """All of the above, and the rule that each breaks, by the model's name."""
    rules: dict[str, str] = {}

    def named(rule: str, make: Callable[[str], object]) -> None:
        name = f"m{len(rules)}"
        make(name)
        rules[name] = rule

    def edited(
        make: Callable[..., Path], old: str, new: str, **model: str
    ) -> Callable[[str], None]:
        return lambda name: change(make(repository, name, **model), old, new)

    for more, rule in PYTHON_MODELS.items():
        named(rule, lambda name, more=more: python_model(repository, name, more, code=CODE))
    for rule, (old, new) in EDITED.items():
        named(rule, edited(python_model, old, new, code=CODE, config=PYTHON))
    for rule, (old, new) in ONNX_MODELS.items():
        named(rule, edited(onnx_model, old, new, config=IDENTITY))
    python_model(repository, "first", code=CODE)
    python_model(repository, "second", code=CODE)
    for rule, (old, new) in ENSEMBLES.items():
        named(rule, lambda name, old=old, new=new: write(repository / name, {
            "config.pbtxt": ENSEMBLE.replace('"pipeline"', f'"{name}"').replace(old, new),
            "1/.keep": ""}))  # fmt: skip
    return rules


class Dead(Exception):
    """The server is gone, which says nothing of the model."""


async def loaded(client: Client, model: str) -> bool:
    try:
        await client.load(model)
    except InferenceServerException as error:
        if error.status() == "StatusCode.UNAVAILABLE":
            raise Dead from error
        return False
    return True


async def answers(repository: Path, state: Path, models: Iterable[str]) -> dict[str, bool]:
    """Whether each loads. A failed warm-up is an unload at once, of which this server may die."""
    found, waiting = {}, list(models)
    for attempt in range(3):
        if not waiting:
            break
        server = await EmbeddedLauncher().start(LaunchOptions(f"lint{attempt}", repository, state))
        client = Client(server.endpoint)
        try:
            while waiting:
                found[waiting[0]] = await loaded(client, waiting[0])
                del waiting[0]
        except Dead:
            continue
        finally:
            await client.close()
            await server.stop(0)
    assert waiting == [], "the server died three times"
    return found


async def test_a_server_refuses_what_is_an_error_and_loads_the_rest(tmp_path):
    repository = tmp_path / "repository"
    rules = write_models(repository)
    found = lint(repository)[1]
    assert {(model, rule) for model, rule in rules.items() if rule} <= {
        (finding.model, finding.rule) for finding in found
    }
    wrong = {finding.model for finding in found if finding.severity == "error"}
    there = await answers(repository, tmp_path / "state", rules)
    refused = {model for model, loads in there.items() if not loads}
    assert {model: rules[model] for model in refused} == {model: rules[model] for model in wrong}
