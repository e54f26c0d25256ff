"""A ``ModelConfig`` as the ``serving`` of a fleet file from which the builder makes it again.

What the builder derives from the artifact is left out; what the fleet file has no field for goes to
``extra``.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from google.protobuf import json_format
from pydantic import ValidationError

from repo_builder.config.message import INITIAL_STATE_FOLDER, WARMUP_FOLDER
from repo_builder.config.render import dims
from repo_builder.importing.words import our_words
from repo_builder.signature import Signature, Tensor
from tritonfleet.server.pbtxt import datatype
from tritonfleet.spec.serving import ConfigOptions

Fields: TypeAlias = "dict[str, Any]"

_FROM_ELSEWHERE = frozenset(
    {
        "name", "platform", "backend", "max_batch_size", "input", "output", "ensemble_scheduling",
        "version_policy", "model_warmup", "default_model_filename", "cc_model_filenames",
    }
)  # fmt: skip
"""Told by the source, or translated each in its own way."""
_OF_INPUTS = ("optional", "allow_ragged_batch", "format")
_OF_TENSORS = ("is_shape_tensor", "is_non_linear_format_io")


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a configuration is a configuration of."""

    folder: Path
    """The model's folder in the repository."""
    base: Path
    """Where the fleet file will lie."""
    signature: Signature | None = None
    """None for an ensemble, whose tensors are its members'."""

    def path(self, *parts: str) -> str:
        """A file of the model, as the fleet file names it."""
        return Path(os.path.relpath(self.folder.joinpath(*parts), self.base)).as_posix()


@dataclass(slots=True)
class Translation:
    """The options found so far, and what has to be told about them."""

    serving: Fields = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: Any, message: Any) -> None:
        """Takes an option over, as ``extra`` where the fleet file has no such field."""
        try:
            ConfigOptions.model_validate({name: value})
        except ValidationError:
            whole = json_format.MessageToDict(message, preserving_proto_field_name=True)
            proto_name = {"warmup": "model_warmup"}.get(name, name)
            self.serving.setdefault("extra", {})[proto_name] = whole[proto_name]
        else:
            self.serving[name] = value


def serving_of(config: Any, artifact: Artifact) -> Translation:
    """The serving options of a parsed configuration."""
    found = Translation({"max_batch_size": max(config.max_batch_size, 0)})
    _version_policy(config, found)
    if artifact.signature is not None:
        for side in ("input", "output"):
            options = dict(_tensor_options(side, config, artifact.signature))
            if options:
                found.add(side, options, config)
    said = our_words(config)
    for name in (name for name in said if name not in _FROM_ELSEWHERE):
        found.add(name, _value(name, said[name], artifact), config)
    _labels(config, artifact, found)
    if config.model_warmup:
        found.add("warmup", _warmups(config, artifact), config)
    return found


def _value(name: str, value: Any, artifact: Artifact) -> Any:
    if name == "parameters":
        return {key: entry.get("string_value", "") for key, entry in value.items()}
    if name == "sequence_batching":
        for state in value.get("state", ()):
            for initial in state.get("initial_state", ()):
                initial.pop("zero_data", None)
                if "data_file" in initial:
                    place = (INITIAL_STATE_FOLDER, initial["data_file"])
                    initial["data_file"] = artifact.path(*place)
    return value


def _version_policy(config: Any, found: Translation) -> None:
    policy = config.version_policy
    if policy.HasField("all"):
        found.serving["version_policy"] = {"all": True}
    elif policy.HasField("latest") and policy.latest.num_versions > 1:
        found.serving["version_policy"] = {"latest": int(policy.latest.num_versions)}
    elif policy.HasField("specific"):
        versions = ", ".join(map(str, policy.specific.versions))
        found.notes.append(f"served the versions {versions}; builds number theirs anew")


def _tensor_options(side: str, config: Any, signature: Signature) -> Iterator[tuple[str, Fields]]:
    actual = {t.name: t for t in (signature.inputs if side == "input" else signature.outputs)}
    joined = without_batch(config)
    for tensor in getattr(config, side):
        said = our_words(tensor)
        names = (*_OF_TENSORS, *(_OF_INPUTS if side == "input" else ()))
        options = {name: said[name] for name in names if name in said}
        if tensor.name in actual:
            batched = config.max_batch_size > 0 and tensor.name not in joined
            options |= _shape_options(tensor, dims(actual[tensor.name].shape, batched))
        if options:
            yield tensor.name, options


def _shape_options(tensor: Any, inner: tuple[int, ...]) -> Fields:
    """What the builder cannot know from the artifact's own dims."""
    declared = tuple(tensor.dims)
    if tensor.HasField("reshape"):
        if not inner and declared == (1,):
            return {}  # a scalar, which it declares like this by itself
        return {"dims": list(declared), "reshape": list(tensor.reshape.shape)}
    return {} if declared == inner else {"dims": list(declared)}


def without_batch(config: Any) -> set[str]:
    """Tensors of a ragged batch, in which the requests' rows are joined."""
    ragged = {tensor.name for tensor in config.input if tensor.allow_ragged_batch}
    made = {name for each in (*config.batch_input, *config.batch_output)
            for name in each.target_name}  # fmt: skip
    return ragged | made


def _labels(config: Any, artifact: Artifact, found: Translation) -> None:
    labels = {
        output.name: artifact.path(output.label_filename)
        for output in config.output
        if output.label_filename
    }
    if labels and artifact.signature is not None:
        found.serving["labels"] = labels


def _warmups(config: Any, artifact: Artifact) -> list[Fields]:
    """The warm-ups in the fleet file's form; a list of None, which it refuses, where none fits."""
    inputs = {tensor.name: tensor for tensor in config.input}
    signature = artifact.signature.inputs if artifact.signature else ()
    shapes = {tensor.name: tensor for tensor in signature}
    return [_warmup(warmup, inputs, shapes, artifact) or _UNTYPED for warmup in config.model_warmup]


_UNTYPED: Fields = {"untyped": True}
"""No warm-up that the fleet file knows: it is refused there and goes to ``extra``."""


def _warmup(
    warmup: Any, inputs: Mapping[str, Any], shapes: Mapping[str, Tensor], artifact: Artifact
) -> Fields | None:
    given = dict(warmup.inputs.items())
    sizes = _sizes((shapes.get(name), given[name]) for name in sorted(given))
    kinds = {_data(value) for value in given.values()} - {"file"}
    if sizes is None or set(given) != set(inputs) or len(kinds) > 1:
        return None
    files = {
        name: artifact.path(WARMUP_FOLDER, value.input_data_file)
        for name, value in sorted(given.items())
        if value.input_data_file
    }
    whole: Fields = {"name": warmup.name, "batch_size": warmup.batch_size, "count": warmup.count}
    whole |= {"data": "random" if "random" in kinds else "", "files": files, "dimensions": sizes}
    return {key: value for key, value in whole.items() if value}


def _data(given: Any) -> str:
    """Where the data comes from; integers that are zero go with either."""
    if given.input_data_file:
        return "file"
    if given.random_data:
        return "random"
    return "zero" if datatype(given.data_type).startswith("FP") else "file"


def _sizes(pairs: Iterable[tuple[Tensor | None, Any]]) -> dict[str, int] | None:
    """The size of each named dimension, from the end; None where one name would need two."""
    sizes: dict[str, int] = {}
    for tensor, given in pairs:
        shape = tensor.shape if tensor else ()
        for name, size in zip(reversed(shape), reversed(given.dims), strict=False):
            if isinstance(name, str) and sizes.setdefault(name, size) != size:
                return None
    return sizes
