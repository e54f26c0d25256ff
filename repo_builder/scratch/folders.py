"""Lays a staged model out in the scratch repository as a server of the fleet will find it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any

from repo_builder.scratch.order import ProofOrder
from tritonfleet.server.layout import CONFIG_NAME, model_versions
from tritonfleet.server.pbtxt import ModelConfig, format_config

_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


def lay_out(order: ProofOrder, repository: Path) -> tuple[str, ...]:
    """The model with all it needs; their names, in the order in which they may be unloaded."""
    for name, folder in order.members.items():
        _link_tree(folder, repository / name)
    target = repository / order.model
    served = served_versions(order.config, model_versions(order.folder))
    shown = {order.version, *served}
    hidden = {str(v) for v in model_versions(order.folder) if v not in shown}
    _link_tree(order.folder, target, hidden)
    if order.version not in served:
        _write_config(target, _serving(order.config, sorted(shown)))
    return order.model, *order.members


def remove(name: str, repository: Path) -> None:
    """Takes a model out of the scratch repository."""
    shutil.rmtree(repository / name, ignore_errors=True)


def served_versions(config: Any, present: tuple[int, ...]) -> tuple[int, ...]:
    """Those of the versions on disk that Triton loads, by the version policy."""
    policy = config.version_policy
    if policy.HasField("all"):
        return present
    if policy.HasField("specific"):
        return tuple(version for version in present if version in policy.specific.versions)
    return present[-(policy.latest.num_versions or 1) :]


def _serving(config: Any, versions: list[int]) -> Any:
    """The same with a policy that serves these: an unserved version must be proved as well."""
    changed = ModelConfig()
    changed.CopyFrom(config)
    changed.version_policy.Clear()
    changed.version_policy.specific.versions.extend(versions)
    return changed


def _write_config(folder: Path, config: Any) -> None:
    path = folder / CONFIG_NAME
    path.unlink(missing_ok=True)  # a link to the staged one, which must stay as it is
    path.write_text(format_config(config), encoding="utf-8")


def _link_tree(source: Path, target: Path, hidden: AbstractSet[str] = frozenset()) -> None:
    def ignore(folder: str, names: list[str]) -> set[str]:
        return set(hidden & set(names)) if Path(folder) == source else set()

    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=ignore, copy_function=_link_or_copy)


def _link_or_copy(source: str, target: str) -> None:
    """Hard links, not symbolic ones: ONNX Runtime refuses weights that lead out of the folder."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        shutil.copy(source, target)
