"""What each task makes of a loaded Transformers model: its forward, inputs, outputs and samples.

A task names the class that loads the checkpoint, the weights that class may lack, and the function
that gives the loaded model the forward it is served by. Imports no PyTorch before one is called.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repo_builder.signature import BATCH
from repo_builder.sources import generation
from repo_builder.sources.base import Checkpoint, InputField, SourceContext
from tritonfleet.errors import ExportFailed, SourceUnavailable
from tritonfleet.spec.sources import HuggingFaceSource as HuggingFaceSpec

SEQUENCE, DECODER_SEQUENCE, PAST = "sequence", "decoder_sequence", "past_sequence"
TOTAL = f"{PAST} + {SEQUENCE}"
POOLING_FOLDER, MODULES_NAME = "1_Pooling", "modules.json"
_KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
_OWN_POOLING_HINT = "Use task 'feature-extraction' and pool in your own code."
_TEXT_BATCH, _IMAGE_BATCH = "text_batch", "image_batch"
_PAST_SIZES = (0, 5, 37)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model of the Transformers library, and where it came from."""

    context: SourceContext
    spec: HuggingFaceSpec
    task: str
    model: Any
    folder: Path | None
    """With its files; None for random weights."""

    @property
    def longest(self) -> int | None:
        """The longest sequence, in tokens, that both the model and the fleet file allow."""
        known = [each for each in (self.spec.max_length, _longest(self.model)) if each is not None]
        return min(known, default=None)


@dataclass(frozen=True, slots=True)
class TaskForm:
    """How one task is loaded and served."""

    auto_class: str
    """The class of the Transformers library that loads it."""
    checkpoint: Callable[[Loaded], Checkpoint]
    unused: tuple[str, ...] = ()
    """Prefixes of weights that the task never reads, so that a checkpoint may lack them."""


def _sentence_embedding(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import SentenceEmbedding

    _require(loaded, "input_ids")
    return _of_text(loaded, SentenceEmbedding(loaded.model, _pooling(loaded)), "embedding")


def _features(loaded: Loaded) -> Checkpoint:
    if hasattr(loaded.model, "get_text_features"):
        cause = f"{type(loaded.model).__name__} has a side for texts and one for images"
        hint = "Use task 'dual-encoder', 'dual-encoder-text' or 'dual-encoder-image'."
        raise ExportFailed(loaded.context.model, cause, hint)
    if _require(loaded, "input_ids", "pixel_values") == "pixel_values":
        return _of_image(loaded, "last_hidden_state")
    return _of_text_field(loaded, "last_hidden_state")


def _sequence_classification(loaded: Loaded) -> Checkpoint:
    return _of_text_field(loaded, "logits", labels=_labels(loaded, "logits"))


def _token_classification(loaded: Loaded) -> Checkpoint:
    # Not as labels of the output: Triton's classification extension knows no tokens.
    names = _labels(loaded, "logits").get("logits")
    return _of_text_field(loaded, "logits", facts={"labels": list(names)} if names else {})


def _question_answering(loaded: Loaded) -> Checkpoint:
    return _of_text_field(loaded, "start_logits", "end_logits")


def _image_classification(loaded: Loaded) -> Checkpoint:
    _require(loaded, "pixel_values")
    return _of_image(loaded, "logits", labels=_labels(loaded, "logits"))


def _dual_encoder(loaded: Loaded) -> Checkpoint:
    """Both sides in one model: as many texts and as many images as one likes, so no batch."""
    from repo_builder.sources.transformer_tasks import DualEncoder

    _require_towers(loaded)
    inputs = {"pixel_values": _pixels(loaded, _IMAGE_BATCH), **_token_inputs(loaded, _TEXT_BATCH)}
    sizes = {_IMAGE_BATCH: (1, 3), _TEXT_BATCH: (1, 2)}
    return _checkpoint(
        loaded, DualEncoder(loaded.model), inputs, ("text_embeds", "image_embeds"), sizes=sizes
    )


def _text_tower(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import TextTower

    _require_towers(loaded)
    return _of_text(loaded, TextTower(loaded.model), "text_embeds")


def _image_tower(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import ImageTower

    _require_towers(loaded)
    pixels = {"pixel_values": _pixels(loaded, BATCH)}
    return _checkpoint(loaded, ImageTower(loaded.model), pixels, ("image_embeds",), textual=False)


def _causal(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import CausalModel

    _require(loaded, "input_ids")
    prompts = generation.prompts(_vocabulary(loaded.model), loaded.longest)
    return _of_text(
        loaded,
        CausalModel(loaded.model),
        "logits",
        generate=lambda predict: generation.greedy(predict, prompts),
    )


def _cached_causal(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import CachedCausalModel, past_shapes

    _require(loaded, "input_ids")
    shapes = past_shapes(loaded.model)
    if not shapes:
        cause = f"{type(loaded.model).__name__} keeps no keys and values that could be handed back"
        raise ExportFailed(loaded.context.model, cause, "Use task 'text-generation'.")
    past = {
        f"past_key_values.{index // 2}.{('key', 'value')[index % 2]}": InputField(
            "FP32", (BATCH, heads, PAST, width)
        )
        for index, (heads, width) in enumerate(shapes)
    }
    tokens = InputField("INT64", (BATCH, SEQUENCE), "tokens", _vocabulary(loaded.model))
    mask = InputField("INT64", (BATCH, TOTAL), "mask")
    inputs = {"input_ids": tokens, "attention_mask": mask, **past}
    present = (name.replace("past_key_values", "present") for name in past)
    prompts = generation.prompts(_vocabulary(loaded.model), loaded.longest)
    empty = {name: field.shape for name, field in past.items()}
    return _checkpoint(
        loaded,
        CachedCausalModel(loaded.model),
        inputs,
        ("logits", *present),
        sizes={PAST: _PAST_SIZES},
        sample_with=_cache_sampler(inputs, loaded.longest),
        generate=lambda predict: generation.greedy_with_past(predict, prompts, empty),
    )


def _cache_sampler(inputs: Mapping[str, InputField], longest: int | None) -> Any:
    """Samples whose padding lies in the cache, on the left.

    A query that sees nothing at all has no answer that two runtimes would agree on.
    """

    def sample(
        sizes: Mapping[str, int], random: np.random.Generator
    ) -> dict[str, np.ndarray[Any, Any]]:
        past = min(sizes[PAST], max((longest or 1 << 30) - sizes[SEQUENCE], 0))
        bounded = {**sizes, PAST: past}
        values = {name: field.sample(bounded, random) for name, field in inputs.items()}
        padding = random.integers(0, past, size=sizes[BATCH], endpoint=True)
        padding[0] = 0
        places = np.arange(past + sizes[SEQUENCE])
        values["attention_mask"] = (places[None, :] >= padding[:, None]).astype(np.int64)
        return values

    return sample


def _sequence_to_sequence(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import SequenceToSequence

    start = _start_token(loaded)
    prompts = generation.prompts(_vocabulary(loaded.model), loaded.longest)
    return _checkpoint(
        loaded,
        SequenceToSequence(loaded.model),
        {**_token_inputs(loaded, BATCH), "decoder_input_ids": _decoder_tokens(loaded)},
        ("logits",),
        sizes={DECODER_SEQUENCE: (1, 7)},
        generate=lambda predict: generation.greedy_answer(
            predict, {"input_ids": prompts.ids, "attention_mask": prompts.mask}, start
        ),
    )


def _sequence_encoder(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import TextModel

    _start_token(loaded)
    module = TextModel(loaded.model.get_encoder(), "last_hidden_state")
    return _of_text(loaded, module, "last_hidden_state")


def _sequence_decoder(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import SequenceDecoder, encoded

    start = _start_token(loaded)
    prompts = generation.prompts(_vocabulary(loaded.model), loaded.longest)
    hidden = encoded(loaded.model, prompts.ids, prompts.mask)
    inputs = {
        "decoder_input_ids": _decoder_tokens(loaded),
        "encoder_hidden_states": InputField("FP32", (BATCH, SEQUENCE, hidden.shape[-1])),
        "encoder_attention_mask": InputField("INT64", (BATCH, SEQUENCE), "mask"),
    }
    fixed = {"encoder_hidden_states": hidden, "encoder_attention_mask": prompts.mask}
    return _checkpoint(
        loaded,
        SequenceDecoder(loaded.model),
        inputs,
        ("logits",),
        sizes={DECODER_SEQUENCE: (1, 7)},
        generate=lambda predict: generation.greedy_answer(predict, fixed, start),
    )


def _speech_encoder(loaded: Loaded) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import SpeechEncoder

    _require(loaded, "input_features")
    config = loaded.model.config
    bins, frames = getattr(config, "num_mel_bins", None), getattr(config, "max_source_positions", 0)
    if not bins or not frames or not hasattr(loaded.model, "get_encoder"):
        cause = f"{type(loaded.model).__name__} does not tell the shape of its spectrograms"
        raise ExportFailed(loaded.context.model, cause, _FACTORY_HINT)
    encoder = loaded.model.get_encoder()
    # Each position is two frames in families that halve the time, as Whisper does.
    halving = getattr(getattr(encoder, "conv2", None), "stride", (1,))[0]
    field = InputField("FP32", (BATCH, int(bins), int(frames) * int(halving)))
    module = SpeechEncoder(encoder)
    return _checkpoint(
        loaded, module, {"input_features": field}, ("last_hidden_state",), textual=False
    )


_FACTORY_HINT = "Write a factory and use kind 'torch_module'."
TASKS: Mapping[str, TaskForm] = {
    "sentence-embedding": TaskForm("AutoModel", _sentence_embedding, ("pooler.",)),
    "feature-extraction": TaskForm("AutoModel", _features, ("pooler.",)),
    "sequence-classification": TaskForm(
        "AutoModelForSequenceClassification", _sequence_classification
    ),
    "token-classification": TaskForm("AutoModelForTokenClassification", _token_classification),
    "question-answering": TaskForm("AutoModelForQuestionAnswering", _question_answering),
    "image-classification": TaskForm("AutoModelForImageClassification", _image_classification),
    "dual-encoder": TaskForm("AutoModel", _dual_encoder),
    "dual-encoder-text": TaskForm(
        "AutoModel", _text_tower, ("vision_model.", "visual_projection.", "logit_")
    ),
    "dual-encoder-image": TaskForm(
        "AutoModel", _image_tower, ("text_model.", "text_projection.", "logit_")
    ),
    "text-generation": TaskForm("AutoModelForCausalLM", _causal),
    "text-generation-with-past": TaskForm("AutoModelForCausalLM", _cached_causal),
    "text2text-generation": TaskForm("AutoModelForSeq2SeqLM", _sequence_to_sequence),
    "text2text-encoder": TaskForm(
        "AutoModelForSeq2SeqLM",
        _sequence_encoder,
        ("decoder.", "model.decoder.", "lm_head.", "final_logits_bias"),
    ),
    "text2text-decoder": TaskForm("AutoModelForSeq2SeqLM", _sequence_decoder),
    "speech-encoder": TaskForm("AutoModel", _speech_encoder, ("decoder.",)),
}


def _require(loaded: Loaded, *accepted: str) -> str:
    """The name of the model's main input, if the task knows what to do with it."""
    name = str(loaded.model.main_input_name)
    if name not in accepted:
        cause = f"models that take '{name}' have no task '{loaded.task}' here"
        raise ExportFailed(loaded.context.model, cause, _FACTORY_HINT)
    return name


def _require_towers(loaded: Loaded) -> None:
    if not hasattr(loaded.model, "get_text_features"):
        cause = f"{type(loaded.model).__name__} is no dual encoder of texts and images"
        raise ExportFailed(loaded.context.model, cause, "Use task 'feature-extraction'.")


def _checkpoint(
    loaded: Loaded,
    module: Any,
    inputs: Mapping[str, InputField],
    outputs: tuple[str, ...],
    *,
    textual: bool = True,
    facts: Mapping[str, Any] | None = None,
    **more: Any,
) -> Checkpoint:
    """A checkpoint whose facts tell the task, and the longest text where there is one."""
    longest = loaded.longest if textual else None
    length = {"max_length": longest} if textual else {}
    told = {"task": loaded.task, **length, **(facts or {})}
    return Checkpoint(module.eval(), inputs, outputs, longest=longest, facts=told, **more)


def _of_text(loaded: Loaded, module: Any, *outputs: str, **more: Any) -> Checkpoint:
    return _checkpoint(loaded, module, _token_inputs(loaded, BATCH), outputs, **more)


def _of_text_field(loaded: Loaded, *outputs: str, **more: Any) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import TextModel

    _require(loaded, "input_ids")
    return _of_text(loaded, TextModel(loaded.model, *outputs), *outputs, **more)


def _of_image(loaded: Loaded, output: str, **more: Any) -> Checkpoint:
    from repo_builder.sources.transformer_tasks import ImageModel

    pixels = {"pixel_values": _pixels(loaded, BATCH)}
    module = ImageModel(loaded.model, output)
    return _checkpoint(loaded, module, pixels, (output,), textual=False, **more)


def _token_inputs(loaded: Loaded, batch: str) -> dict[str, InputField]:
    shape = (batch, SEQUENCE)
    return {
        "input_ids": InputField("INT64", shape, "tokens", _vocabulary(loaded.model)),
        "attention_mask": InputField("INT64", shape, "mask"),
    }


def _decoder_tokens(loaded: Loaded) -> InputField:
    shape = (BATCH, DECODER_SEQUENCE)
    return InputField("INT64", shape, "tokens", _vocabulary(loaded.model))


def _pixels(loaded: Loaded, batch: str) -> InputField:
    config = getattr(loaded.model.config, "vision_config", loaded.model.config)
    height, width = _image_size(loaded.context, config, loaded.folder)
    return InputField("FP32", (batch, int(getattr(config, "num_channels", 3)), height, width))


def _vocabulary(model: Any) -> int:
    return int(_text_config(model).vocab_size)


def _text_config(model: Any) -> Any:
    return getattr(model.config, "text_config", None) or model.config.get_text_config()


def _longest(model: Any) -> int | None:
    """The number of positions; those of RoBERTa's kind begin behind the padding's own."""
    from repo_builder.sources.transformer_tasks import position_offset

    places = getattr(_text_config(model), "max_position_embeddings", None)
    return None if places is None else int(places) - position_offset(model)


def _start_token(loaded: Loaded) -> int:
    """The token with which every answer of a sequence-to-sequence model begins."""
    _require(loaded, "input_ids")
    for holder in (loaded.model.generation_config, loaded.model.config):
        token = getattr(holder, "decoder_start_token_id", None)
        if token is not None:
            return int(token)
    cause = "its configuration does not tell decoder_start_token_id"
    raise SourceUnavailable(loaded.context.model, cause, "Add it to config.json.")


def _pooling(loaded: Loaded) -> str:
    """How a sentence-transformers folder pools; the mean where it does not say.

    Raises SourceUnavailable for a way this toolkit does not have: another one would give
    embeddings that look right and are not.
    """
    from repo_builder.sources.transformer_tasks import POOLINGS

    if loaded.folder is None:
        return "mean"
    _check_modules(loaded.context.model, loaded.folder)
    file = loaded.folder / POOLING_FOLDER / "config.json"
    if not file.is_file():
        return "mean"
    modes = pooling_modes(read_json(loaded.context.model, file))
    if len(modes) == 1 and modes[0] in POOLINGS:
        return modes[0]
    cause = f"it pools by {' and '.join(modes) or 'nothing'}; known are {', '.join(POOLINGS)}"
    raise SourceUnavailable(loaded.context.model, cause, _OWN_POOLING_HINT)


def _check_modules(model: str, folder: Path) -> None:
    """Refuses steps that sentence-transformers would take after the pooling, such as Dense."""
    file = folder / MODULES_NAME
    steps = read_json(model, file, list) if file.is_file() else []
    kinds = [str(step.get("type", "")).rpartition(".")[2] for step in steps]
    others = [kind for kind in kinds if kind not in _KNOWN_MODULES]
    if others:
        cause = f"its embedding passes through {', '.join(others)}, which is not known here"
        raise SourceUnavailable(model, cause, _OWN_POOLING_HINT)


def pooling_modes(config: Mapping[str, Any]) -> list[str]:
    """The modes of either form of the file: a name or list, or one flag for each mode."""
    if "pooling_mode" in config:
        named = config["pooling_mode"]
        return [named] if isinstance(named, str) else list(named)
    prefix = "pooling_mode_"
    flags = [
        key.removeprefix(prefix) for key, on in config.items() if key.startswith(prefix) and on
    ]
    return [flag.removesuffix("_tokens").removesuffix("_token") for flag in flags]


def _labels(loaded: Loaded, output: str) -> dict[str, tuple[str, ...]]:
    """The checkpoint's own class names, unless they are only numbers."""
    names = loaded.model.config.id2label or {}
    labels = tuple(str(names[index]) for index in sorted(names))
    generic = all(label == f"LABEL_{index}" for index, label in enumerate(labels))
    return {} if generic else {output: labels}


def _image_size(context: SourceContext, config: Any, folder: Path | None) -> tuple[int, int]:
    """Height and width of the images a model takes."""
    size = getattr(config, "image_size", None) or _preprocessor_size(context, folder)
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        size = (size.get("height", edge), size.get("width", edge))
    height, width = (size, size) if isinstance(size, int) or size is None else size
    if not height or not width:
        cause = "neither config.json nor preprocessor_config.json tells the size of its images"
        raise SourceUnavailable(context.model, cause, "Add image_size to its configuration.")
    return int(height), int(width)


def _preprocessor_size(context: SourceContext, folder: Path | None) -> Any:
    file = folder / "preprocessor_config.json" if folder else None
    if file is None or not file.is_file():
        return None
    config = read_json(context.model, file)
    return config.get("crop_size") or config.get("size")


def read_json(model: str, file: Path, kind: type[Any] = dict) -> Any:
    """A JSON object, or what ``kind`` asks for; SourceUnavailable, with the file, if it is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        cause = f"{file} cannot be read: {error}"
        raise SourceUnavailable(model, cause, "Check that the files are whole.") from error
    if not isinstance(found, kind):
        cause = f"{file} holds a {type(found).__name__} where a {kind.__name__} belongs"
        raise SourceUnavailable(model, cause, "Check that the files are whole.")
    return found
