"""Transformers models: found, loaded, and given the forward that their task is served by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from repo_builder.signature import BATCH
from repo_builder.sources.base import (
    Checkpoint,
    CheckpointSource,
    Digest,
    InputField,
    SourceContext,
)
from repo_builder.sources.location import cached_snapshot, fetch_snapshot, local_path
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.fleet import HuggingFaceSource as HuggingFaceSpec

SEQUENCE = "sequence"
_REQUIRED = ("config.json", "*.safetensors")
_AUTO_CLASSES = {
    "sentence-embedding": "AutoModel",
    "feature-extraction": "AutoModel",
    "sequence-classification": "AutoModelForSequenceClassification",
    "image-classification": "AutoModelForImageClassification",
    "text-generation": "AutoModelForCausalLM",
}
_OUTPUTS = {"sentence-embedding": "embedding", "feature-extraction": "last_hidden_state"}
_POOLING_FOLDER = "1_Pooling"


class HuggingFaceSource(CheckpointSource[HuggingFaceSpec]):
    """A model of the Transformers library, with its weights or with random ones."""

    def state(
        self, spec: HuggingFaceSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The digest of a local folder, or the commit of a hub snapshot."""
        if spec.model is None:
            return {"random_weights": True}
        folder = local_path(context.model, spec.model, context.base)
        if folder is not None:
            return {"digest": digest(folder)}
        snapshot = cached_snapshot(spec.model, spec.revision, _REQUIRED)
        return {"commit": snapshot.name} if snapshot else None

    def fetch(self, spec: HuggingFaceSpec, context: SourceContext) -> Path | None:
        """The folder with configuration and weights; None for random weights."""
        if spec.model is None:
            return None
        folder = local_path(context.model, spec.model, context.base)
        return folder or fetch_snapshot(context.model, spec.model, spec.revision, _REQUIRED)

    def load(
        self, spec: HuggingFaceSpec, context: SourceContext, fetched: Path | None
    ) -> Checkpoint:
        """The model in fp32 and evaluation mode, wrapped for its task."""
        model = (
            _pretrained(spec, context, fetched) if fetched else _from_configuration(spec, context)
        )
        model = model.float().eval()
        # A cache of keys and values would become outputs nobody asked for.
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False
        if model.main_input_name == "pixel_values":
            checkpoint = _image_checkpoint(spec, context, model, fetched)
        elif model.main_input_name == "input_ids":
            checkpoint = _text_checkpoint(spec, context, model, fetched)
        else:
            cause = f"models that take '{model.main_input_name}' have no task here"
            hint = "Write a factory and use kind 'torch_module'."
            raise ExportFailed(context.model, cause, hint)
        checkpoint.module.eval()
        return checkpoint


def _auto_class(spec: HuggingFaceSpec) -> Any:
    import transformers

    return getattr(transformers, _AUTO_CLASSES[spec.task])


def _from_configuration(spec: HuggingFaceSpec, context: SourceContext) -> Any:
    from transformers import AutoConfig

    from repo_builder.sources.transformer_tasks import seed

    fields = dict(spec.random_weights or {})
    kind = fields.pop("model_type", None)
    if kind is None:
        hint = "Add model_type, such as 'bert' or 'vit'."
        raise SourceUnavailable(context.model, "random_weights names no architecture", hint)
    seed(spec.seed)
    try:
        return _auto_class(spec).from_config(AutoConfig.for_model(kind, **fields))
    except (ValueError, TypeError, KeyError) as error:
        cause = f"no model can be made from random_weights: {_first_line(error)}"
        raise SourceUnavailable(context.model, cause, "Check its model_type and fields.") from error


def _pretrained(spec: HuggingFaceSpec, context: SourceContext, folder: Path) -> Any:
    from safetensors import SafetensorError

    if not any(folder.glob("*.safetensors")):
        hint = "Only safetensors weights are read: pickled ones can run code."
        raise SourceUnavailable(context.model, f"{folder} has no *.safetensors", hint)
    try:
        model, report = _auto_class(spec).from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        cause = f"{folder} cannot be loaded: {_first_line(error)}"
        raise SourceUnavailable(context.model, cause, "Check that the files are whole.") from error
    _check_complete(spec, context, report["missing_keys"])
    return model


def _check_complete(spec: HuggingFaceSpec, context: SourceContext, missing: Any) -> None:
    """Refuses a checkpoint that lacks a layer: Transformers would fill it with random weights."""
    # The pooler behind [CLS] is not part of what these tasks return.
    unused = ("pooler.",) if _AUTO_CLASSES[spec.task] == "AutoModel" else ()
    lacking = sorted(key for key in missing if not key.startswith(unused))
    if lacking:
        cause = f"the checkpoint has no weights for {', '.join(lacking[:3])}"
        hint = f"It was not trained for task '{spec.task}': choose another task or checkpoint."
        raise SourceUnavailable(context.model, cause, hint)


def _text_checkpoint(
    spec: HuggingFaceSpec, context: SourceContext, model: Any, folder: Path | None
) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import SentenceEmbedding, TextModel

    output = _OUTPUTS.get(spec.task, "logits")
    module = (
        SentenceEmbedding(model, _pooling(context, folder))
        if spec.task == "sentence-embedding"
        else TextModel(model, output)
    )
    shape = (BATCH, SEQUENCE)
    config = model.config.get_text_config()
    longest = spec.max_length or getattr(config, "max_position_embeddings", None)
    return Checkpoint(
        module,
        {
            "input_ids": InputField("INT64", shape, "tokens", int(config.vocab_size)),
            "attention_mask": InputField("INT64", shape, "mask"),
        },
        (output,),
        longest=longest,
        labels=_labels(spec, model, output),
        facts={"max_length": longest, **_commit(spec, context, folder)},
    )


def _image_checkpoint(
    spec: HuggingFaceSpec, context: SourceContext, model: Any, folder: Path | None
) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import ImageModel

    output = _OUTPUTS.get(spec.task, "logits")
    height, width = _image_size(context, model.config, folder)
    channels = int(getattr(model.config, "num_channels", 3))
    return Checkpoint(
        ImageModel(model, output),
        {"pixel_values": InputField("FP32", (BATCH, channels, height, width))},
        (output,),
        labels=_labels(spec, model, output),
        facts=_commit(spec, context, folder),
    )


def _commit(spec: HuggingFaceSpec, context: SourceContext, folder: Path | None) -> dict[str, Any]:
    """The hub commit that was used, for the manifest."""
    if spec.model is None or folder is None:
        return {}
    local = local_path(context.model, spec.model, context.base)
    return {} if local else {"commit": folder.name}


def _pooling(context: SourceContext, folder: Path | None) -> str:
    """How a sentence-transformers folder pools; the mean where it does not say.

    Raises SourceUnavailable for a way this toolkit does not have: another one would give
    embeddings that look right and are not.
    """
    from repo_builder.sources.transformer_tasks import POOLINGS

    file = folder / _POOLING_FOLDER / "config.json" if folder else None
    if file is None or not file.is_file():
        return "mean"
    modes = _pooling_modes(json.loads(file.read_text(encoding="utf-8")))
    if len(modes) == 1 and modes[0] in POOLINGS:
        return modes[0]
    cause = f"it pools by {' and '.join(modes) or 'nothing'}; known are {', '.join(POOLINGS)}"
    hint = "Use task 'feature-extraction' and pool in your own code."
    raise SourceUnavailable(context.model, cause, hint)


def _pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """The modes of either form of the file: a name or list, or one flag for each mode."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    prefix = "pooling_mode_"
    flags = [
        key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on
    ]
    return [flag.removesuffix("_tokens").removesuffix("_token") for flag in flags]


def _labels(spec: HuggingFaceSpec, model: Any, output: str) -> dict[str, tuple[str, ...]]:
    """The checkpoint's own class names, unless they are only numbers."""
    if not spec.task.endswith("-classification"):
        return {}
    names = model.config.id2label or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    generic = all(label == f"LABEL_{index}" for index, label in enumerate(labels))
    return {} if generic else {output: labels}


def _image_size(context: SourceContext, config: Any, folder: Path | None) -> tuple[int, int]:
    """Height and width of the images a model takes."""
    size = getattr(config, "image_size", None) or _preprocessor_size(folder)
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    height, width = (size, size) if isinstance(size, int) or size is None else size
    if not height or not width:
        cause = "neither config.json nor preprocessor_config.json tells the size of its images"
        raise SourceUnavailable(context.model, cause, "Add image_size to its configuration.")
    return int(height), int(width)


def _preprocessor_size(folder: Path | None) -> Any:
    file = folder / "preprocessor_config.json" if folder else None
    if file is None or not file.is_file():
        return None
    config = json.loads(file.read_text(encoding="utf-8"))
    return config.get("crop_size") or config.get("size")


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
