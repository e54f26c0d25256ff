"""How a source becomes an artifact: the ``export`` of a fleet file's model."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from tritonfleet.spec.base import Spec
from tritonfleet.units import Bytes

Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]


class ParitySpec(Spec):
    """How an artifact is proved to compute what the original computes.

    What is not given follows from the precision: docs/parity.md has the table and its sources.
    """

    tolerance: float | None = Field(
        None, gt=0, description="Largest allowed max|difference| / max|reference| per output."
    )
    min_cosine_similarity: float | None = Field(
        None, ge=-1, le=1, description="Smallest allowed cosine of a row of an output to its own."
    )
    min_argmax_agreement: float | None = Field(
        None, ge=0, le=1, description="Share of rows whose largest score must be at the same place."
    )
    top_k: int = Field(5, ge=1, description="For min_top_k_agreement.")
    min_top_k_agreement: float | None = Field(
        None, ge=0, le=1, description="Mean share of the k largest scores that must be the same."
    )
    min_token_agreement: float | None = Field(
        None, ge=0, le=1,
        description="For models that generate: share of greedily generated tokens that must agree.",
    )  # fmt: skip
    batch_sizes: tuple[int, ...] = Field((1, 3), min_length=1)
    dimensions: dict[str, tuple[int, ...]] = Field(
        {"sequence": (1, 8, 33)},
        description="Sizes tried for each named dynamic dimension besides the batch.",
    )


class MetricSpec(Spec):
    """A gate of your own: a figure on real data that an artifact must reach."""

    metric: str = Field(
        pattern=r"^[\w.]+:[\w.]+$",
        description="'module:function'; it gets 'predict', which maps named numpy arrays to named "
        "numpy arrays, and returns a number, of which more is better.",
    )
    python_path: str | None = Field(
        None, description="Folder to import it from, relative to the fleet file."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="Passed to the function.")
    minimum: float | None = Field(None, description="The least that is published.")
    maximum_drop: float | None = Field(
        None, ge=0, description="How far an artifact may stay behind the original."
    )


class OnnxVariant(Spec):
    """The exported ONNX file, as it is or made smaller and faster."""

    format: Literal["onnx"]
    name: str | None = Field(None, description="In reports; made of the options where not given.")
    optimize: Literal["none", "basic", "extended", "all"] = Field(
        "none",
        description="ONNX Runtime's graph optimisations, done at build instead of at each load. "
        "'extended' and 'all' write operators that only ONNX Runtime has; 'all' fits this kind of "
        "CPU only.",
    )
    precision: Literal["fp32", "fp16"] = "fp32"
    quantize: Literal["dynamic", "static"] | None = Field(
        None, description="int8: 'dynamic' for transformers, 'static' for convolutions."
    )
    per_channel: bool = Field(True, description="One scale for each output channel.")
    weight_type: Literal["int8", "uint8"] = "int8"
    operators: tuple[str, ...] | None = Field(
        None, description="Kinds of operators to quantize; those that gain by it where not given."
    )
    calibration_samples: int = Field(64, ge=1, description="For 'static'.")
    calibration_method: Literal["minmax", "entropy", "percentile"] = "minmax"
    parity: ParitySpec | None = Field(None, description="In place of the export's own.")

    @model_validator(mode="after")
    def _one_precision(self) -> OnnxVariant:
        if self.quantize and self.precision != "fp32":
            raise ValueError(f"quantize makes int8 of it: leave out precision {self.precision}")
        return self

    @property
    def arithmetic(self) -> Precision:
        """The precision that its gate goes by."""
        return "int8" if self.quantize else self.precision

    @property
    def label(self) -> str:
        """What reports call it."""
        parts = ["onnx"]
        parts += [self.optimize] if self.optimize != "none" else []
        parts += [f"int8-{self.quantize}"] if self.quantize else []
        parts += [self.precision] if self.precision != "fp32" else []
        return self.name or "-".join(parts)


class DimensionRange(Spec):
    """Sizes of one dynamic dimension that an engine is made for."""

    min: int = Field(ge=1)
    opt: int = Field(ge=1, description="The size it is tuned for.")
    max: int = Field(ge=1)

    @model_validator(mode="after")
    def _ascending(self) -> DimensionRange:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"min {self.min}, opt {self.opt}, max {self.max} do not ascend")
        return self


class TensorRTVariant(Spec):
    """A TensorRT engine of the ONNX file. It must be built on the kind of GPU that will run it."""

    format: Literal["tensorrt"]
    name: str | None = Field(None, description="In reports; made of the options where not given.")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    profiles: tuple[dict[str, DimensionRange], ...] = Field(
        (),
        description="Optimisation profiles: sizes for each named dynamic dimension. One from 1 to "
        "max_batch_size, and to the longest sequence, where none is given.",
    )
    workspace: Bytes | None = Field(None, description="Scratch memory tactics may use.")
    optimization_level: int | None = Field(None, ge=0, le=5)
    version_compatible: bool = Field(
        False,
        description="Loads in later TensorRT versions too, and runs slower; Triton needs "
        "--backend-config=tensorrt,version-compatible=true.",
    )
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    parity: ParitySpec | None = Field(None, description="In place of the export's own.")

    @property
    def arithmetic(self) -> Precision:
        """The precision that its gate goes by."""
        return self.precision

    @property
    def label(self) -> str:
        """What reports call it."""
        return self.name or "-".join(
            ["tensorrt", *([self.precision] if self.precision != "fp32" else [])]
        )


Variant: TypeAlias = Annotated[OnnxVariant | TensorRTVariant, Field(discriminator="format")]


class MeasureSpec(Spec):
    """On which requests candidates are measured."""

    batch_sizes: tuple[int, ...] = Field(
        (1, 8),
        min_length=1,
        description="min_latency goes by the first, max_throughput by the best of them.",
    )
    dimensions: dict[str, int] = Field(
        default_factory=dict, description="Sizes of named dynamic dimensions; 32 where not given."
    )
    seconds: float = Field(1.0, gt=0, description="For each candidate and batch size, about.")


class ExportSpec(Spec):
    """How the source becomes an artifact that Triton can load."""

    exporter: str = Field(
        "onnx",
        description="onnx: torch.export to ONNX. onnx_torchscript: ONNX by tracing, which follows "
        "one branch only. pytorch: TorchScript for Triton's pytorch backend.",
    )
    fallbacks: tuple[str, ...] = Field(
        (), description="Exporters to try, in this order, when the first fails."
    )
    opset: int = Field(
        20, ge=18, le=23, description="ONNX operator set; 20 loads in every Triton from 24.05 on."
    )
    variants: tuple[Variant, ...] = Field(
        (), description="What to make of the ONNX file; the file as it is where none is given."
    )
    choose: Literal["min_latency", "max_throughput", "min_memory"] | None = Field(
        None,
        description="Publish the variant that measures best on this machine; without it, the first "
        "in the list that passes its gates.",
    )
    measure: MeasureSpec = MeasureSpec()
    examples: str | None = Field(
        None,
        description="Real inputs for calibration and proof: an .npz with rows for each input, or a "
        "text file with one text a line for models with a tokenizer. Any location.",
    )
    parity: ParitySpec = ParitySpec()
    metric: MetricSpec | None = None
    proof: Literal["infer", "load", "off"] = Field(
        "infer",
        description="What a scratch tritonserver must do with the model before it is published.",
    )

    @model_validator(mode="after")
    def _distinct(self) -> ExportSpec:
        for label, count in Counter(variant.label for variant in self.variants).items():
            if count > 1:
                raise ValueError(f"{count} variants are called '{label}': give one a name")
        return self
