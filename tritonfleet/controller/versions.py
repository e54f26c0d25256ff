"""How several versions of a model stand beside each other in one tritonserver.

The first is the model itself to the ledger; each further one is an entry of its own, ``NAME@7``,
which is loaded after it and leaves before it. Triton knows no loads of versions: it is given the
list of those that are wanted, as a configuration in the place of the published one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from google.protobuf import json_format

_SEPARATOR = "@"
"""In no model's name."""


def entry_of(model: str, version: int) -> str:
    """The ledger's name for a further version of a model."""
    return f"{model}{_SEPARATOR}{version}"


def parts_of(entry: str) -> tuple[str, int | None]:
    """The model, and the version if the entry is a further one."""
    model, _, version = entry.partition(_SEPARATOR)
    return (model, int(version)) if version.isdecimal() else (entry, None)


def config_with(config: Any, versions: Iterable[int]) -> str:
    """A ``ModelConfig`` as the JSON that makes Triton hold exactly these versions."""
    wanted = type(config)()
    wanted.CopyFrom(config)
    wanted.ClearField("version_policy")
    wanted.version_policy.specific.versions.extend(sorted(versions))
    return json_format.MessageToJson(wanted, preserving_proto_field_name=True, indent=None)


def sequence_idle_s(config: Any) -> float:
    """For how long Triton keeps the state of a sequence that is silent; 0 for other models."""
    if not config.HasField("sequence_batching"):
        return 0.0
    # Triton's default, where the configuration says nothing.
    return (config.sequence_batching.max_sequence_idle_microseconds or 1_000_000) / 1e6
