"""Folders with a model.py of the user's, published as they are."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path
from typing import Any

from repo_builder.artifacts.address import is_address
from repo_builder.artifacts.contained import check_links
from repo_builder.product import Product
from repo_builder.signature import Signature, Tensor
from repo_builder.sources.base import AssembledSource, Digest, SourceContext
from repo_builder.sources.location import artifact_path, artifact_state
from tritonfleet.errors import InvalidModelConfig, SourceUnavailable
from tritonfleet.spec.sources import PythonSource as PythonSpec

CODE_NAME = "model.py"
_CLASS_NAME = "TritonPythonModel"


class PythonSource(AssembledSource[PythonSpec]):
    """A model.py for the python backend, with declared inputs and outputs."""

    def state(
        self, spec: PythonSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The digest of the folder."""
        if not is_address(spec.path):
            _folder(spec, context)
        return artifact_state(spec.path, context, digest)

    def assemble(self, spec: PythonSpec, context: SourceContext, folder: Path) -> Product:
        """Copies the folder, and looks whether its model.py is one."""
        source = _folder(spec, context)
        _check_code(context.model, source / CODE_NAME)
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=ignore)
        tensors = {
            side: tuple(Tensor(name, tensor.dtype, tensor.shape) for name, tensor in given.items())
            for side, given in (("inputs", spec.inputs), ("outputs", spec.outputs))
        }
        return Product("python", Signature(tensors["inputs"], tensors["outputs"]))


def _folder(spec: PythonSpec, context: SourceContext) -> Path:
    """The checked folder, on this machine."""
    folder = artifact_path(spec.path, context)
    if not (folder / CODE_NAME).is_file():
        hint = f"'path' names a folder that holds a {CODE_NAME}."
        raise SourceUnavailable(context.model, f"there is no {folder / CODE_NAME}", hint)
    check_links(context.model, folder)
    return folder


def _check_code(model: str, file: Path) -> None:
    """Finds what would only show when Triton loads it, without running it."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError as error:
        cause = f"{file} does not parse: {error.msg} in line {error.lineno}"
        raise InvalidModelConfig(model, cause) from error
    defined = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if _CLASS_NAME not in defined and _CLASS_NAME not in imported:
        hint = "The python backend looks for a class of that name."
        raise InvalidModelConfig(model, f"{file} defines no {_CLASS_NAME}", hint)
