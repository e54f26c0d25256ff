"""Where models come from: the ``source`` of a fleet file's model."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from tritonfleet.spec.base import DataType, ModelName, Spec

_LOCATION = (
    "A path relative to the fleet file, 'package:NAME/PATH' inside an installed package, an "
    "address such as s3://bucket/key (any of fsspec's), or models:/NAME/VERSION of an MLflow "
    "registry. Credentials come from the environment, never from this file."
)
Task: TypeAlias = Literal[
    "sentence-embedding",
    "feature-extraction",
    "sequence-classification",
    "token-classification",
    "question-answering",
    "image-classification",
    "dual-encoder",
    "dual-encoder-text",
    "dual-encoder-image",
    "text-generation",
    "text-generation-with-past",
    "text2text-generation",
    "text2text-encoder",
    "text2text-decoder",
    "speech-encoder",
]


class TensorSpec(Spec):
    """One input or output: its data type, and its shape with names for the dynamic dimensions."""

    dtype: DataType
    shape: tuple[int | str, ...] = Field(
        description="Sizes, or names for dynamic dimensions; 'batch' first makes a model batchable."
    )


class HuggingFaceSource(Spec):
    """A Transformers model, from the hub, any location, or a configuration."""

    kind: Literal["huggingface"]
    model: str | None = Field(None, description=f"A hub id, or a location: {_LOCATION}")
    revision: str | None = Field(None, description="Branch, tag or commit on the hub.")
    task: Task | None = Field(
        None, description="What its forward gives; told from the checkpoint where not given."
    )
    random_weights: dict[str, Any] | None = Field(
        None,
        description="Instead of 'model': an architecture from a configuration (model_type and its "
        "fields) with random weights. For sizing and tests; it predicts nothing.",
    )
    seed: int = Field(0, description="Of random weights.")
    max_length: int | None = Field(None, ge=1, description="Longest sequence, in tokens.")
    trust_remote_code: bool = Field(
        False, description="Run code that comes with the checkpoint. It can do anything."
    )


class TorchModuleSource(Spec):
    """A torch.nn.Module made by an importable factory."""

    kind: Literal["torch_module"]
    factory: str = Field(
        pattern=r"^[\w.]+:[\w.]+$", description="'module:function' that returns the module."
    )
    python_path: str | None = Field(
        None, description="Folder to import the factory from, relative to the fleet file."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Passed to the factory.")
    files: tuple[str, ...] = Field(
        (), description="Data the factory reads, relative to the fleet file: a change rebuilds."
    )
    state_dict: str | None = Field(
        None,
        description="Weights loaded into the module: .safetensors, a folder of such files, or a "
        f".pt that holds tensors only. {_LOCATION}",
    )
    allow_pickle: bool = Field(
        False, description="Read a .pt that holds more than tensors. It can run any code."
    )
    inputs: dict[str, TensorSpec] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)


class ExportedProgramSource(Spec):
    """A program saved by torch.export.save; inputs and their dynamic dimensions are its own."""

    kind: Literal["exported_program"]
    path: str = Field(description=f"The .pt2 file. {_LOCATION}")
    inputs: tuple[str, ...] = Field((), description="Names, in order, in place of its own.")
    outputs: tuple[str, ...] = Field((), description="Names, in order, in place of its own.")


class TorchScriptSource(Spec):
    """A module saved by torch.jit.save."""

    kind: Literal["torchscript"]
    path: str = Field(description=f"The file. {_LOCATION}")
    inputs: dict[str, TensorSpec] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1)


class OnnxSource(Spec):
    """An ONNX file that exists already; external data beside it comes along."""

    kind: Literal["onnx"]
    path: str = Field(description=f"The file, or a folder with one .onnx file. {_LOCATION}")


class TokenizerSource(Spec):
    """Text in, token ids and attention mask out, as a python-backend model."""

    kind: Literal["tokenizer"]
    model: str = Field(description="As for 'huggingface': where the tokenizer.json lies.")
    revision: str | None = None
    max_length: int = Field(256, ge=1, description="Longer texts are cut to so many tokens.")
    buckets: tuple[int, ...] = Field(
        (16, 32, 64, 128, 256),
        min_length=1,
        description="Sequences are padded to the next of these, so that requests of similar "
        "length meet in one batch: Triton never batches different shapes.",
    )


class PythonSource(Spec):
    """A folder with a model.py for Triton's python backend."""

    kind: Literal["python"]
    path: str = Field(description=f"The folder. {_LOCATION}")
    inputs: dict[str, TensorSpec] = Field(min_length=1)
    outputs: dict[str, TensorSpec] = Field(min_length=1)


class EnsembleStep(Spec):
    """One member of an ensemble; tensors join by name unless a map says otherwise."""

    model: ModelName
    input_map: dict[str, str] = Field(
        default_factory=dict, description="The member's input: the ensemble's tensor."
    )
    output_map: dict[str, str] = Field(
        default_factory=dict, description="The member's output: the ensemble's tensor."
    )


class EnsembleSource(Spec):
    """Other models of the fleet, joined: what one gives, the next takes."""

    kind: Literal["ensemble"]
    steps: tuple[EnsembleStep, ...] = Field(min_length=1)
    outputs: tuple[str, ...] = Field(min_length=1, description="Tensors that leave the ensemble.")


Source: TypeAlias = Annotated[
    HuggingFaceSource
    | TorchModuleSource
    | ExportedProgramSource
    | TorchScriptSource
    | OnnxSource
    | TokenizerSource
    | PythonSource
    | EnsembleSource,
    Field(discriminator="kind"),
]
