"""Reads files of weights, as tensors by name, without running what may be hidden in them.

safetensors can hold nothing but tensors. A pickle can name any code to run while it is read:
PyTorch's restricted reader refuses all but tensors, and only the fleet file may lift that.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repo_builder.causes import first_line
from tritonfleet.errors import SourceUnavailable

_SAFE = ".safetensors"
_PICKLED = (".pt", ".pth", ".bin", ".ckpt")
_FOREIGN = re.compile(r"(?:GLOBAL|global:?|class) ([\w.]+\.[\w.]+)")
# What training loops put around the weights.
_WRAPPERS = ("state_dict", "model_state_dict")
_TOLD = 3


def read_weights(model: str, path: Path, *, allow_pickle: bool = False) -> dict[str, Any]:
    """The tensors of a .safetensors file, of a folder of them, or of a .pt file."""
    if path.is_dir():
        return _sharded(model, path)
    if path.suffix == _SAFE:
        return _safe(model, path)
    if path.suffix not in _PICKLED:
        cause = f"{path} is no kind of file that weights are read from"
        hint = f"Known are {', '.join((_SAFE, *_PICKLED))}."
        raise SourceUnavailable(model, cause, hint)
    return _tensors(model, path, _unpickled(model, path, allow_pickle))


def load_weights(model: str, module: Any, weights: Mapping[str, Any]) -> None:
    """Puts the weights into the module; every one must have its place, and every place its own."""
    try:
        left = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        sizes = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
        cause = f"the state_dict does not fit: {'; '.join(sizes[:_TOLD]) or first_line(str(error))}"
        raise SourceUnavailable(model, cause, "Check the factory's arguments.") from error
    parts = [f"lacks {_some(left.missing_keys)}"] if left.missing_keys else []
    parts += [f"has {_some(left.unexpected_keys)} too many"] if left.unexpected_keys else []
    if parts:
        cause = f"the state_dict does not fit: it {' and '.join(parts)}"
        hint = "Its names must be those of the module that the factory makes."
        raise SourceUnavailable(model, cause, hint)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return f"{', '.join(names[:_TOLD])}{more}"


def _safe(model: str, path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found: dict[str, Any] = load_file(str(path))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(model, path, error) from error
    return found


def _sharded(model: str, folder: Path) -> dict[str, Any]:
    shards = sorted(folder.glob(f"*{_SAFE}"))
    if not shards:
        hint = "Only safetensors are read from a folder; name the file if it is another kind."
        raise SourceUnavailable(model, f"{folder} has no *{_SAFE}", hint)
    found: dict[str, Any] = {}
    for shard in shards:
        found |= _safe(model, shard)
    return found


def _unpickled(model: str, path: Path, allow_pickle: bool) -> Any:
    import torch

    options = {"map_location": "cpu", "mmap": zipfile.is_zipfile(path)}
    try:
        return torch.load(path, weights_only=not allow_pickle, **options)
    except pickle.UnpicklingError as error:
        foreign = _FOREIGN.search(str(error))
        if allow_pickle or foreign is None:
            raise _damaged(model, path, error) from error
        cause = f"{path} holds more than tensors ({foreign[1]}), and reading it can run any code"
        hint = (
            "Save its state_dict as .safetensors, or set allow_pickle: true if you trust whoever "
            "made the file."
        )
        raise SourceUnavailable(model, cause, hint) from error
    # Truncated archives, and whatever the code of a trusted pickle raises.
    except Exception as error:
        raise _damaged(model, path, error) from error


def _tensors(model: str, path: Path, found: Any) -> dict[str, Any]:
    """The tensors by name, out of what a training loop saved around them."""
    import torch

    if isinstance(found, torch.nn.Module):
        found = found.state_dict()
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not all(torch.is_tensor(v) for v in found.values()):
        cause = f"{path} is no state_dict: it does not map names to tensors"
        raise SourceUnavailable(model, cause, "Save module.state_dict() and name that file.")
    return dict(found)


def _damaged(model: str, path: Path, error: Exception) -> SourceUnavailable:
    cause = f"{path} cannot be read: {first_line(str(error)) or type(error).__name__}"
    return SourceUnavailable(model, cause, "Check that the file is whole.")
