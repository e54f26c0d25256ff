"""What of a factory's code and data enters the fingerprint; running one is in test_pipeline."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from repo_builder.sources.base import SourceContext
from repo_builder.sources.torch_module import TorchModuleSource
from tests.repo_builder.sources.comparing import loaded
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.sources import TorchModuleSource as TorchModuleSpec


@pytest.fixture
def context(tmp_path):
    return SourceContext("m", tmp_path, tmp_path / "repository")


def spec(**fields):
    tensor = {"dtype": "FP32", "shape": ["batch", 1]}
    defaults = {"factory": "make:module", "python_path": "code"}
    return TorchModuleSpec.model_validate(
        {"kind": "torch_module", "inputs": {"x": tensor}, "outputs": ["y"], **defaults, **fields}
    )


def write(root: Path, **modules: str) -> None:
    """Modules by name, ``a__b`` being module b of package a."""
    for name, text in modules.items():
        path = root / "code" / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def code(made, context) -> list[str]:
    return TorchModuleSource().state(made, context, lambda path: path.name)["code"]


def test_the_factory_s_file_is_part_of_its_state(context, tmp_path):
    write(tmp_path, make="import torch", unrelated="")
    assert code(spec(), context) == ["make.py"]


def test_so_is_what_it_imports_from_its_own_folder_directly_or_not(context, tmp_path):
    write(
        tmp_path,
        make="import helper\nfrom parts import layers",
        helper="def f():\n    import deep",
        deep="import make",
        parts__layers="from . import blocks\nfrom .blocks import Block",
        parts__blocks="",
        other="",
    )
    (tmp_path / "code" / "parts" / "__init__.py").touch()
    assert code(spec(), context) == [
        "__init__.py", "blocks.py", "deep.py", "helper.py", "layers.py", "make.py"
    ]  # fmt: skip


def test_code_that_does_not_parse_is_left_to_the_import_to_tell(context, tmp_path):
    write(tmp_path, make="def (")
    assert code(spec(), context) == ["make.py"]


def test_an_installed_factory_needs_no_path(context):
    assert code(spec(factory="json.decoder:JSONDecoder", python_path=None), context) == [
        "__init__.py", "decoder.py", "encoder.py", "scanner.py"
    ]  # fmt: skip


def test_declared_files_are_part_of_its_state(context, tmp_path):
    write(tmp_path, make="")
    (tmp_path / "data.tsv").write_text("x")
    made = spec(files=["data.tsv", "package:json/tool.py"])
    state = TorchModuleSource().state(made, context, lambda path: path.name)
    assert state["files"] == {"data.tsv": "data.tsv", "package:json/tool.py": "tool.py"}


def test_a_declared_file_that_is_not_there_is_named(context, tmp_path):
    write(tmp_path, make="")
    with pytest.raises(SourceUnavailable, match=r"nothing at .*data\.tsv"):
        TorchModuleSource().state(spec(files=["data.tsv"]), context, str)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"python_path": "nowhere"}, "there is no folder"),
        ({"factory": "absent:module"}, "no module 'absent' lies in"),
        ({"factory": "no_such_module:f", "python_path": None}, "can be imported"),
    ],
)
def test_a_factory_that_is_not_there_is_told(context, tmp_path, fields, text):
    write(tmp_path, make="")
    with pytest.raises(SourceUnavailable, match=text):
        TorchModuleSource().state(spec(**fields), context, str)


@pytest.fixture
def with_weights(tmp_path, monkeypatch):
    """A factory of a module and a file with its weights, all ones."""
    from safetensors.torch import save_file
    from torch import ones

    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "make", raising=False)
    write(tmp_path, make="import torch\n\ndef module():\n    return torch.nn.Linear(1, 2)\n")
    save_file({"weight": ones(2, 1), "bias": ones(2)}, tmp_path / "w.safetensors")
    return spec(state_dict="w.safetensors", outputs=["y"])


@pytest.mark.build
def test_the_state_dict_s_weights_fill_the_factory_s_module(context, with_weights):
    checkpoint = loaded(TorchModuleSource(), with_weights, context)
    assert checkpoint.module.weight.tolist() == [[1.0], [1.0]]
    assert not checkpoint.module.training


@pytest.mark.build
def test_a_state_dict_of_another_module_is_refused(context, with_weights, tmp_path):
    (tmp_path / "code" / "make.py").write_text(
        "import torch\n\ndef module():\n    return torch.nn.Linear(3, 2)\n"
    )
    with pytest.raises(SourceUnavailable, match="size mismatch for weight"):
        loaded(TorchModuleSource(), with_weights, context)


@pytest.mark.build
def test_the_state_dict_is_part_of_the_state(context, with_weights):
    state = TorchModuleSource().state(with_weights, context, lambda path: path.name)
    assert state["state_dict"] == {"digest": "w.safetensors"}


def test_a_state_dict_that_is_not_there_is_named(context, tmp_path):
    write(tmp_path, make="")
    with pytest.raises(SourceUnavailable, match=r"nothing at .*absent\.pt"):
        TorchModuleSource().state(spec(state_dict="absent.pt"), context, str)
