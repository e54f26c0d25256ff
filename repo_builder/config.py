"""Renders ``config.pbtxt`` and trusts none of it until it has been parsed back and checked.

The templates are for people to read and change; what they give is compared with the artifact's
signature, and linted for what a server would accept in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repo_builder.config_check import check_config
from repo_builder.product import Product
from repo_builder.signature import Shape, Signature, Tensor
from tritonfleet.errors import InvalidModelConfig, did_you_mean
from tritonfleet.server.pbtxt import config_type, parse_config
from tritonfleet.server.tensors import DYNAMIC_SIZE
from tritonfleet.spec.fleet import ServingSpec, Warmup

DEFAULT_MAX_BATCH_SIZE = 8
_TEMPLATE_NAME = "config.pbtxt.j2"


@dataclass(frozen=True, slots=True)
class RenderedConfig:
    """The text of a config.pbtxt, what it means, and the label files it names."""

    text: str
    message: Any
    label_files: Mapping[str, str]


def template_folder() -> Path:
    """Where the templates are: inside an installed package, or in the checkout beside it."""
    installed = Path(__file__).with_name("templates")
    return (
        installed if installed.is_dir() else Path(__file__).parents[1] / "triton_configs/templates"
    )


def read_labels(model: str, serving: ServingSpec, base: Path) -> dict[str, tuple[str, ...]]:
    """The class names that the fleet file gives, files read; InvalidModelConfig when one is not."""
    labels = {}
    for output, given in serving.labels.items():
        if not isinstance(given, str):
            labels[output] = tuple(given)
            continue
        try:
            lines = (base / given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            hint = f"It is looked for relative to {base}."
            raise InvalidModelConfig(model, f"label file '{given}': {error}", hint) from error
        labels[output] = tuple(line for line in lines if line)
    return labels


def render_config(
    model: str,
    product: Product,
    serving: ServingSpec,
    labels: Mapping[str, tuple[str, ...]] | None = None,
) -> RenderedConfig:
    """The checked configuration of a model; ``labels`` win over those of its source.

    Raises InvalidModelConfig when the serving options contradict the artifact.
    """
    signature = product.signature
    max_batch_size = choose_max_batch_size(model, product, serving)
    labels = {**product.labels, **(labels or {})}
    _check_labels(model, signature, labels)
    files = {_label_file(output): "\n".join(names) + "\n" for output, names in labels.items()}
    batched = max_batch_size > 0
    text = _template().render(
        name=model,
        backend=product.backend,
        max_batch_size=max_batch_size,
        inputs=[_declared(tensor, batched) for tensor in signature.inputs],
        outputs=[_declared(tensor, batched, labels) for tensor in signature.outputs],
        version_policy=serving.version_policy,
        steps=product.steps,
        instance_group=serving.instance_group,
        dynamic_batching=serving.dynamic_batching,
        warmup=[_warmup(i, w, signature, batched) for i, w in enumerate(serving.warmup)],
    )
    message = parse_config(model, text)
    check_config(model, message, signature, frozenset(files))
    return RenderedConfig(text.strip() + "\n", message, files)


def choose_max_batch_size(model: str, product: Product, serving: ServingSpec) -> int:
    """The declared size, or the one that follows from the artifact: 8 if it can batch, else 0.

    Raises InvalidModelConfig for a declared batch that the artifact cannot have.
    """
    declared, limit = serving.max_batch_size, product.batch_limit
    batchable = product.signature.batchable
    if declared is None:
        if not batchable:
            return 0
        return limit if limit is not None else DEFAULT_MAX_BATCH_SIZE
    if declared > 0 and not batchable:
        cause = f"max_batch_size is {declared}, but its tensors do not share a leading batch"
        hint = "Set serving.max_batch_size: 0, or export it with 'batch' first in every shape."
        raise InvalidModelConfig(model, cause, hint)
    if limit is not None and declared > limit:
        cause = f"max_batch_size is {declared}, but one of its members takes only {limit}"
        raise InvalidModelConfig(model, cause, "Lower it, or raise the member's.")
    return declared


@cache
def _template() -> Any:
    from google.protobuf.text_encoding import CEscape
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The result is no HTML: escaping is protobuf's, by the filter below.
    environment = Environment(loader=FileSystemLoader(template_folder()), undefined=StrictUndefined)
    environment.filters["quoted"] = lambda text: f'"{CEscape(text.encode(), as_utf8=False)}"'
    return environment.get_template(_TEMPLATE_NAME)


def _declared(
    tensor: Tensor, batched: bool, labels: Mapping[str, tuple[str, ...]] | None = None
) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "data_type": config_type(tensor.dtype),
        "dims": dims(tensor.shape, batched),
        "label_filename": _label_file(tensor.name) if tensor.name in (labels or {}) else "",
    }


def dims(shape: Shape, batched: bool) -> tuple[int, ...]:
    """A shape as ``dims``: -1 for what is dynamic, and no batch where Triton adds it itself."""
    return tuple(size if isinstance(size, int) else -1 for size in shape[1 if batched else 0 :])


def _label_file(output: str) -> str:
    return f"{output}_labels.txt"


def _check_labels(model: str, signature: Signature, labels: Mapping[str, tuple[str, ...]]) -> None:
    outputs = {tensor.name: tensor for tensor in signature.outputs}
    for output, names in labels.items():
        if output not in outputs:
            guess = did_you_mean(output, outputs)
            hint = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(outputs)}."
            raise InvalidModelConfig(model, f"labels name an output '{output}'", hint)
        width = outputs[output].shape[-1] if outputs[output].shape else 1
        if isinstance(width, int) and width != len(names):
            cause = f"output '{output}' gives {width} scores and has {len(names)} labels"
            raise InvalidModelConfig(model, cause, "Give one label for each score, in order.")


def _warmup(index: int, warmup: Warmup, signature: Signature, batched: bool) -> dict[str, Any]:
    """One warm-up request. Only floats can be random: ids beyond a vocabulary fail the load."""
    sizes = warmup.dimensions
    return {
        "name": f"warmup_{index}",
        "batch_size": warmup.batch_size if batched else 0,
        "count": warmup.count,
        "inputs": [
            {
                "name": tensor.name,
                "data_type": config_type(tensor.dtype),
                "dims": _warmup_dims(tensor.shape[1 if batched else 0 :], sizes),
                "random": warmup.data == "random" and tensor.dtype.startswith("FP"),
            }
            for tensor in signature.inputs
        ],
    }


def _warmup_dims(shape: Shape, sizes: Mapping[str, int]) -> tuple[int, ...]:
    chosen = (s if isinstance(s, int) else sizes.get(s, DYNAMIC_SIZE) for s in shape)
    return tuple(chosen) or (1,)
