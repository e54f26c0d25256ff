"""What a source is: the two kinds there are, and what they give.

A *checkpoint source* loads a PyTorch module, in a process of its own; an exporter turns it into an
artifact. An *assembled source* writes the files of a version folder itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from repo_builder.product import Product
from repo_builder.signature import BATCH, Shape
from tritonfleet.server.tensors import NUMPY_TYPES

SpecT = TypeVar("SpecT")
Digest: TypeAlias = Callable[[Path], str]
"""The SHA-256 of a file or a folder."""
Sampler: TypeAlias = Callable[
    [Mapping[str, int], np.random.Generator], "dict[str, np.ndarray[Any, Any]]"
]
Predict: TypeAlias = Callable[
    [Mapping[str, "np.ndarray[Any, Any]"]], "dict[str, np.ndarray[Any, Any]]"
]
"""Runs a model: named arrays in, named arrays out."""
Generator: TypeAlias = Callable[[Predict], "np.ndarray[Any, Any]"]
"""Greedy tokens, [prompts, tokens], of fixed prompts."""
_PLUS = " + "
_WORDS = np.array(["", "a", "model", "serves", "two texts"])


@dataclass(frozen=True, slots=True)
class SourceContext:
    """Where a source may look: relative paths start at ``base``, the fleet file's folder."""

    model: str
    base: Path
    repository: Path
    cache: Path = Path(".tritonfleet/build/artifacts")
    """Where copies of remote artifacts are kept from build to build."""


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What a factory may return instead of a bare module."""

    module: Any
    """A torch.nn.Module whose forward takes the inputs in their declared order."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """What was measured on held-out data."""
    examples: Mapping[str, Any] = field(default_factory=dict)
    """Rows of real data for each input, from which the parity check draws."""


@dataclass(frozen=True, slots=True)
class InputField:
    """One input of a checkpoint, and what realistic values for it look like."""

    dtype: str
    shape: Shape
    values: Literal["normal", "tokens", "mask"] = "normal"
    high: int = 2
    """Integers are drawn below this: the vocabulary's size for tokens."""
    examples: Any = None

    def sample(self, sizes: Mapping[str, int], random: np.random.Generator) -> np.ndarray[Any, Any]:
        """Values of the given sizes: real rows where there are some, likely ones otherwise."""
        shape = tuple(_value(size, sizes) for size in self.shape)
        if self.dtype == "BYTES":
            return random.choice(_WORDS, size=shape)
        dtype = np.dtype(NUMPY_TYPES[self.dtype])
        if self.examples is not None:
            rows: np.ndarray[Any, Any] = np.asarray(self.examples)
            chosen: np.ndarray[Any, Any] = rows[random.integers(len(rows), size=shape[0])]
            return chosen.astype(dtype)
        if self.values == "mask":
            return _right_padded(shape, random).astype(dtype)
        if dtype.kind == "f":
            return random.standard_normal(shape).astype(dtype)
        return random.integers(0, self.high, size=shape).astype(dtype)


def _value(size: int | str, sizes: Mapping[str, int]) -> int:
    """A dimension's size: fixed, named, or a sum of named ones such as 'past + sequence'."""
    return size if isinstance(size, int) else sum(sizes[name] for name in size.split(_PLUS))


def _right_padded(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray[Any, Any]:
    """An attention mask whose first row is full and whose others end anywhere after a token."""
    rows, length = shape
    lengths = random.integers(1, length + 1, size=rows)
    lengths[0] = length
    return np.arange(length)[None, :] < lengths[:, None]


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A loaded model with what is needed to export and to check it."""

    module: Any
    """The torch.nn.Module in evaluation mode; None where the source is an ONNX file."""
    inputs: Mapping[str, InputField]
    """In the order of the module's forward."""
    outputs: tuple[str, ...]
    longest: int | None = None
    """The longest sequence it was made for, in tokens."""
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Sizes to check for dynamic dimensions whose usual ones would mean nothing, such as an image's
    width; the fleet file's win."""
    sample_with: Sampler | None = None
    """Makes one request's inputs where they depend on each other, such as a mask over a cache."""
    program: Any = None
    """The torch.export.ExportedProgram where the source is one."""
    onnx: Path | None = None
    """The file where the source is an ONNX file."""
    generate: Generator | None = None
    """For models that generate text: greedy tokens, given a way to run the model."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The names of the dynamic dimensions besides the batch, and besides sums of others."""
        names = (size for field in self.inputs.values() for size in field.shape)
        return tuple(
            dict.fromkeys(n for n in names if isinstance(n, str) and n != BATCH and _PLUS not in n)
        )

    @property
    def batched(self) -> bool:
        """Whether any input has a batch dimension."""
        return any(BATCH in field.shape for field in self.inputs.values())

    def sample(
        self, sizes: Mapping[str, int], random: np.random.Generator
    ) -> dict[str, np.ndarray[Any, Any]]:
        """One request's inputs."""
        if self.sample_with is not None:
            return self.sample_with(sizes, random)
        return {name: field.sample(sizes, random) for name, field in self.inputs.items()}


class Source(ABC, Generic[SpecT]):
    """One kind of source."""

    @abstractmethod
    def state(self, spec: SpecT, context: SourceContext, digest: Digest) -> dict[str, Any] | None:
        """What the result depends on besides the fleet file, as JSON; it enters the fingerprint.

        None when it is not on this machine yet and must be fetched. Raises SourceUnavailable for
        what cannot be had at all.
        """


class CheckpointSource(Source[SpecT]):
    """A source that gives a PyTorch module to export."""

    @abstractmethod
    def fetch(self, spec: SpecT, context: SourceContext) -> Path | None:
        """Brings the files to this machine; None where there are none to bring."""

    @abstractmethod
    def load(self, spec: SpecT, context: SourceContext, fetched: Path | None) -> Checkpoint:
        """The module in evaluation mode. Raises SourceUnavailable or ExportFailed."""


class AssembledSource(Source[SpecT]):
    """A source that writes the files of a version folder itself."""

    @abstractmethod
    def assemble(self, spec: SpecT, context: SourceContext, folder: Path) -> Product:
        """Fills a version folder. Raises SourceUnavailable or InvalidModelConfig."""
