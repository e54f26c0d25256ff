"""What may reach torch.export.load: archives that hold tensors and a graph, and no way to run code.

PyTorch's own reader would run, each on its word: pickles without restriction, expressions of
dynamic sizes as Python, any function of torch named by a node, and compiled libraries.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from repo_builder.causes import first_line
from tritonfleet.errors import SourceUnavailable

_MODEL, _WEIGHTS, _CONSTANTS, _SAMPLES = (
    "models/model.json",
    "data/weights/model_weights_config.json",
    "data/constants/model_constants_config.json",
    "data/sample_inputs/model.pt",
)
_PLAIN = re.compile(
    r"models/model\.json|data/(weights|constants)/model_(weights|constants)_config\.json"
    r"|data/weights/weight_\d+|data/constants/tensor_\d+|data/sample_inputs/model\.pt"
    r"|archive_format|archive_version|byteorder|\.data/\w+|extra/[\w./-]+"
)
# Operators, arithmetic on sizes, and nothing that opens, loads or imports.
_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|quantized_decomposed|torchvision)\.(?!from_file)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|map|map_impl|scan|associative_scan"
    r"|wrap_with_set_grad_enabled|wrap_with_autocast|invoke_subgraph|flex_attention)"
    r"|torch\.(sym_\w+|_sym_sqrt)|math\.(ceil|floor|trunc|sqrt|pow)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|and_|or_|xor|not_|lshift|rshift"
    r"|le|lt|ge|gt|eq|ne|getitem|index)"
)
# Capitalised functions over numbers and symbols such as 's0': no dot, no bracket, no other text.
_EXPRESSION = re.compile(
    r"(?:'[a-z]+\d+'|[a-z_]+=(?:True|False)|[suz]\d+|(?:int_)?oo|true|false|[A-Z][A-Za-z]*|\d+"
    r"|[-+*/%(),<>=&|~! ])*"
)
_HINT = (
    "Save the program anew with torch.export.save, without custom objects or subclasses of "
    "tensors; or load it yourself in a factory of kind 'torch_module'."
)


class _Refused(Exception):
    """What the archive holds that could run code."""


def check_program(model: str, path: Path) -> None:
    """Raises SourceUnavailable for a file that is no such archive, or that could run code."""
    try:
        with zipfile.ZipFile(path) as archive:
            _check(archive)
    except _Refused as error:
        cause = f"{path} {error}, and loading that can run any code"
        raise SourceUnavailable(model, cause, _HINT) from None
    except (zipfile.BadZipFile, OSError, KeyError, ValueError) as error:
        cause = f"{path} is no whole file of torch.export.save: {first_line(str(error))}"
        raise SourceUnavailable(model, cause, "Check that the file is whole.") from error


def _check(archive: zipfile.ZipFile) -> None:
    root = _check_names(archive.namelist())
    for config in (_WEIGHTS, _CONSTANTS):
        for name, payload in json.loads(archive.read(root + config))["config"].items():
            if payload["use_pickle"]:
                raise _Refused(f"keeps '{name}' as a pickle")
    for node in _dictionaries(json.loads(archive.read(root + _MODEL))):
        _check_node(node)
    _check_samples(archive.read(root + _SAMPLES))


def _check_names(names: list[str]) -> str:
    """The folder that all lies in; two readers must not see two different files of one name."""
    root = names[0].partition("/")[0] + "/" if names else ""
    for name in names:
        if not name.startswith(root) or not _PLAIN.fullmatch(name.removeprefix(root)):
            raise _Refused(f"holds '{name}'")
    if len(set(names)) != len(names):
        raise _Refused("holds two files of one name")
    return root


def _dictionaries(value: Any) -> Iterator[dict[str, Any]]:
    """Every JSON object inside a value."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            yield each
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _check_node(node: dict[str, Any]) -> None:
    called = [node.get("as_operator")]
    called += (
        [node["target"]] if "inputs" in node and "outputs" in node and "target" in node else []
    )
    for target in called:
        if isinstance(target, str) and not _TARGET.fullmatch(target):
            raise _Refused(f"calls '{target}'")
    expression = node.get("expr_str", "")
    if not isinstance(expression, str) or not _EXPRESSION.fullmatch(expression):
        raise _Refused(f"has a size '{expression}'")
    for structure in ("in_spec", "out_spec"):
        if "default_factory_module" in str(node.get(structure, "")):
            raise _Refused("takes or gives a defaultdict")


def _check_samples(content: bytes) -> None:
    """PyTorch falls back to an unrestricted reader when the restricted one fails; this does not."""
    import torch

    if not content:
        return
    try:
        torch.load(io.BytesIO(content), weights_only=True)
    # Whatever is wrong with it, the unrestricted reader must not see it.
    except Exception as error:
        raise _Refused(f"has sample inputs that are no tensors ({type(error).__name__})") from error
