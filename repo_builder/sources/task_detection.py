"""Which task a checkpoint was made for, as its own files tell it.

The class named in ``config.json`` is looked up where the Transformers library keeps its classes by
task, so a family added there is known here. What has a head for a task gets that task; a bare
encoder gives its hidden states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from repo_builder.sources.tasks import MODULES_NAME, POOLING_FOLDER, TASKS, read_json
from tritonfleet.errors import SourceUnavailable

_TASKS_HINT = f"Name it with 'task': {', '.join(TASKS)}."
# By the names of the library's tables, the more special before the more general.
_TABLES = (
    ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "sequence-classification"),
    ("MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES", "token-classification"),
    ("MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES", "question-answering"),
    ("MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES", "image-classification"),
    ("MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES", "speech-encoder"),
    ("MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "text2text-generation"),
    ("MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "text-generation-with-past"),
    ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "feature-extraction"),
)
# What code of a checkpoint's own calls its classes.
_ENDINGS = (
    ("ForSequenceClassification", "sequence-classification"),
    ("ForTokenClassification", "token-classification"),
    ("ForQuestionAnswering", "question-answering"),
    ("ForImageClassification", "image-classification"),
    ("ForCausalLM", "text-generation-with-past"),
    ("LMHeadModel", "text-generation-with-past"),
)


def detect_task(model: str, folder: Path) -> str:
    """The task of a checkpoint's folder; SourceUnavailable, naming those there are, if untold."""
    if (folder / MODULES_NAME).is_file() or (folder / POOLING_FOLDER).is_dir():
        return "sentence-embedding"
    config = read_json(model, folder / "config.json")
    names = [str(name) for name in config.get("architectures") or ()]
    for name in names:
        task = _of_class(name, config)
        if task is not None:
            return task
    told = f"config.json names {', '.join(names)}" if names else "config.json names no architecture"
    raise SourceUnavailable(model, f"its task cannot be told: {told}", _TASKS_HINT)


def random_weights_need_a_task(model: str) -> SourceUnavailable:
    """The error for a configuration without a task: one model_type serves many."""
    return SourceUnavailable(model, "random_weights do not tell what they are for", _TASKS_HINT)


def _of_class(name: str, config: Mapping[str, Any]) -> str | None:
    from transformers.models.auto import modeling_auto as tables

    kind = str(config.get("model_type"))
    bare = name in _classes(tables.MODEL_MAPPING_NAMES.get(kind))
    # Bare models first: some tables list them too, for want of a head.
    if bare or name in _classes(tables.MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES.get(kind)):
        return _of_bare(name, kind, tables)
    for table, task in _TABLES:
        if name in _classes(getattr(tables, table).get(kind)):
            return task
    if "auto_map" in config:
        return next((task for ending, task in _ENDINGS if name.endswith(ending)), None)
    return None


def _of_bare(name: str, kind: str, tables: Any) -> str | None:
    """A model without a head: two towers, a spectrogram's encoder, or hidden states."""
    if name in _classes(tables.MODEL_FOR_ZERO_SHOT_IMAGE_CLASSIFICATION_MAPPING_NAMES.get(kind)):
        return "dual-encoder"
    if kind in tables.MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES:
        return "speech-encoder"
    if kind in tables.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "text2text-encoder" if name.endswith("EncoderModel") else None
    return "feature-extraction"


def _classes(entry: Any) -> Iterator[str]:
    """A table's entry: one class, several, or none."""
    if entry is not None:
        yield from (entry,) if isinstance(entry, str) else entry
