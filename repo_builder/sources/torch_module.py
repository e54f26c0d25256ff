"""PyTorch modules made by a factory of the user's: any importable ``module:function``."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from repo_builder.importable import imported
from repo_builder.sources.base import (
    Checkpoint,
    CheckpointSource,
    Digest,
    InputField,
    SourceContext,
    TrainedModel,
)
from repo_builder.sources.location import (
    PACKAGE_PREFIX,
    artifact_path,
    artifact_state,
    local_path,
)
from repo_builder.sources.weights import load_weights, read_weights
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.sources import TorchModuleSource as TorchModuleSpec


class TorchModuleSource(CheckpointSource[TorchModuleSpec]):
    """A module, trained or loaded by an importable factory."""

    def state(
        self, spec: TorchModuleSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """Digests of the factory's code, with what it imports from its own folder, and its data.

        None while its state_dict is not on this machine.
        """
        code = {str(file): digest(file) for file in _code(spec, context)}
        data = {name: digest(_data_file(name, context)) for name in spec.files}
        state: dict[str, Any] = {"code": sorted(code.values()), "files": data}
        if spec.state_dict is None:
            return state
        weights = artifact_state(spec.state_dict, context, digest)
        return None if weights is None else {**state, "state_dict": weights}

    def fetch(self, spec: TorchModuleSpec, context: SourceContext) -> Path | None:
        """The state_dict's file, where there is one; the factory brings the rest."""
        for name in spec.files:
            _data_file(name, context)
        return None if spec.state_dict is None else artifact_path(spec.state_dict, context)

    def load(
        self, spec: TorchModuleSpec, context: SourceContext, fetched: Path | None
    ) -> Checkpoint:
        """Calls the factory, and gives its module the weights of the state_dict."""
        import torch

        torch.manual_seed(0)
        trained = _trained(context.model, _call(spec, context))
        if fetched is not None:
            weights = read_weights(context.model, fetched, allow_pickle=spec.allow_pickle)
            load_weights(context.model, trained.module, weights)
        inputs = {
            name: InputField(
                tensor.dtype, tensor.shape, examples=_examples(trained, name, tensor.shape, context)
            )
            for name, tensor in spec.inputs.items()
        }
        return Checkpoint(
            trained.module.eval(), inputs, spec.outputs, metrics=dict(trained.metrics)
        )


def _call(spec: TorchModuleSpec, context: SourceContext) -> Any:
    folder = _python_path(spec, context) if spec.python_path is not None else None
    try:
        factory = imported(spec.factory, folder)
    except (ImportError, AttributeError) as error:
        hint = "Check 'factory' and 'python_path'; the latter is relative to the fleet file."
        cause = f"factory {spec.factory} cannot be imported: {error}"
        raise SourceUnavailable(context.model, cause, hint) from error
    return factory(**spec.arguments)


def _trained(model: str, made: Any) -> TrainedModel:
    from torch import nn

    trained = made if isinstance(made, TrainedModel) else TrainedModel(made)
    if not isinstance(trained.module, nn.Module):
        cause = f"its factory returned {type(trained.module).__name__}"
        raise ExportFailed(model, cause, "Return a torch.nn.Module or a TrainedModel.")
    return trained


def _examples(trained: TrainedModel, name: str, shape: Any, context: SourceContext) -> Any:
    rows = trained.examples.get(name)
    if rows is None:
        return None
    rows = np.asarray(rows)
    if len(rows) == 0 or rows.shape[1:] != tuple(shape[1:]):
        cause = f"the factory's examples for '{name}' have shape {list(rows.shape)}"
        hint = f"They must be rows of the declared shape {list(shape)}, of static sizes."
        raise ExportFailed(context.model, cause, hint)
    return rows


def _python_path(spec: TorchModuleSpec, context: SourceContext) -> Path:
    path = (context.base / str(spec.python_path)).resolve()
    if not path.is_dir():
        hint = f"'python_path' is relative to {context.base}."
        raise SourceUnavailable(context.model, f"there is no folder {path}", hint)
    return path


def _data_file(name: str, context: SourceContext) -> Path:
    relative = name if name.startswith((PACKAGE_PREFIX, "/", ".")) else f"./{name}"
    path = local_path(context.model, relative, context.base)
    assert path is not None, "a name that starts like a path is never a hub id"
    return path


def _code(spec: TorchModuleSpec, context: SourceContext) -> list[Path]:
    """The factory's file and what it imports, directly or not, from its folder or package."""
    module, package = spec.factory.partition(":")[0], ""
    if spec.python_path is None:
        package = module.partition(".")[0]
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            cause = f"no module '{module}' can be imported"
            raise SourceUnavailable(context.model, cause, "Set 'python_path' to its folder.")
        folder, origin = Path(found.origin).parent, Path(found.origin)
        root = folder.parent if origin.name == "__init__.py" else folder
    else:
        root = _python_path(spec, context)
    files = _reached(root, module, package)
    if not files:
        cause = f"no module '{module}' lies in {root}"
        raise SourceUnavailable(context.model, cause, "Check 'factory' and 'python_path'.")
    return files


def _reached(root: Path, module: str, package: str) -> list[Path]:
    """Files below ``root`` that importing a module runs, at most those of one installed package."""
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        inside = not package or name.partition(".")[0] == package
        file = _module_file(root, name) if inside else None
        if file is not None and name not in found:
            found[name] = file
            waiting += [name.rpartition(".")[0], *_imports(file, name)]
    return sorted(set(found.values()))


def _module_file(root: Path, module: str) -> Path | None:
    if not module:
        return None
    stem = root.joinpath(*module.split("."))
    candidates = (stem.with_name(f"{stem.name}.py"), stem / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


def _imports(file: Path, module: str) -> Iterator[str]:
    """Every module name an import statement of the file could mean."""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:
        return  # importing it will say so, with the line
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - max(node.level - 1, 0)]
            parts = [*above, node.module] if node.level else [node.module]
            name = ".".join(part for part in parts if part)
            yield name
            yield from (f"{name}.{alias.name}" for alias in node.names)
