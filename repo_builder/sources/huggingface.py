"""Transformers models: found, loaded, and given the forward that their task is served by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from repo_builder.causes import first_line
from repo_builder.sources.base import Checkpoint, CheckpointSource, Digest, SourceContext
from repo_builder.sources.location import model_path, model_state
from repo_builder.sources.task_detection import detect_task, random_weights_need_a_task
from repo_builder.sources.tasks import TASKS, Loaded
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.sources import HuggingFaceSource as HuggingFaceSpec

_REQUIRED = ("config.json", "*.safetensors")
_WHOLE_HINT = "Check that the files are whole."


class HuggingFaceSource(CheckpointSource[HuggingFaceSpec]):
    """A model of the Transformers library, with its weights or with random ones."""

    def state(
        self, spec: HuggingFaceSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """The digest of a local folder, or the commit of a hub snapshot."""
        if spec.model is None:
            return {"random_weights": True}
        return model_state(spec.model, spec.revision, _REQUIRED, context, digest)

    def fetch(self, spec: HuggingFaceSpec, context: SourceContext) -> Path | None:
        """The folder with configuration and weights; None for random weights."""
        if spec.model is None:
            return None
        return model_path(spec.model, spec.revision, _REQUIRED, context)

    def load(
        self, spec: HuggingFaceSpec, context: SourceContext, fetched: Path | None
    ) -> Checkpoint:
        """The model in fp32 and evaluation mode, wrapped for its task."""
        task = spec.task or _told(context, fetched)
        model = (
            _pretrained(spec, task, context, fetched)
            if fetched
            else _from_configuration(spec, task, context)
        )
        model = model.float().eval()
        # A cache of keys and values would become outputs nobody asked for.
        if getattr(model.config, "use_cache", False):
            model.config.use_cache = False
        checkpoint = TASKS[task].checkpoint(Loaded(context, spec, task, model, fetched))
        return replace(checkpoint, facts={**checkpoint.facts, **_commit(fetched)})


def _told(context: SourceContext, folder: Path | None) -> str:
    if folder is None:
        raise random_weights_need_a_task(context.model)
    return detect_task(context.model, folder)


def _auto_class(task: str) -> Any:
    import transformers

    return getattr(transformers, TASKS[task].auto_class)


def _from_configuration(spec: HuggingFaceSpec, task: str, context: SourceContext) -> Any:
    from transformers import AutoConfig

    from repo_builder.sources.transformer_tasks import seed

    fields = dict(spec.random_weights or {})
    kind = fields.pop("model_type", None)
    if kind is None:
        hint = "Add model_type, such as 'bert' or 'vit'."
        raise SourceUnavailable(context.model, "random_weights names no architecture", hint)
    seed(spec.seed)
    try:
        return _auto_class(task).from_config(AutoConfig.for_model(kind, **fields))
    # A wrong field surfaces wherever the architecture first uses it, as anything at all.
    except Exception as error:
        cause = f"no model can be made from random_weights: {_first_line(error)}"
        raise SourceUnavailable(context.model, cause, "Check its model_type and fields.") from error


def _pretrained(spec: HuggingFaceSpec, task: str, context: SourceContext, folder: Path) -> Any:
    if not any(folder.glob("*.safetensors")):
        hint = "Only safetensors weights are read: pickled ones can run code."
        raise SourceUnavailable(context.model, f"{folder} has no *.safetensors", hint)
    try:
        model, report = _auto_class(task).from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            trust_remote_code=spec.trust_remote_code,
        )
    # Damaged files and foreign code raise anything at all, and so does the library on them.
    except Exception as error:
        raise _unloadable(task, context, folder, error) from error
    _check_complete(task, context, report["missing_keys"])
    return model


def _unloadable(
    task: str, context: SourceContext, folder: Path, error: Exception
) -> SourceUnavailable:
    text = str(error)
    if "trust_remote_code" in text:
        cause = f"{folder} brings code of its own, which is not run unless you say so"
        hint = "Read that code, then set trust_remote_code: true on the source."
        return SourceUnavailable(context.model, cause, hint)
    if text.startswith("Unrecognized configuration class"):
        cause = f"its architecture has no form for task '{task}'"
        return SourceUnavailable(context.model, cause, f"Known tasks are {', '.join(TASKS)}.")
    return SourceUnavailable(
        context.model, f"{folder} cannot be loaded: {_first_line(error)}", _WHOLE_HINT
    )


def _check_complete(task: str, context: SourceContext, missing: Any) -> None:
    """Refuses a checkpoint that lacks a layer: Transformers would fill it with random weights."""
    lacking = sorted(key for key in missing if not key.startswith(TASKS[task].unused))
    if lacking:
        cause = f"the checkpoint has no weights for {', '.join(lacking[:3])}"
        hint = f"It was not trained for task '{task}': choose another task or checkpoint."
        raise SourceUnavailable(context.model, cause, hint)


def _commit(folder: Path | None) -> dict[str, Any]:
    """The hub commit that was used, for the manifest: its cache keeps one folder for each."""
    in_hub_cache = folder is not None and folder.parent.name == "snapshots"
    return {"commit": folder.name} if folder is not None and in_hub_cache else {}


def _first_line(error: BaseException) -> str:
    return first_line(str(error)) or type(error).__name__
