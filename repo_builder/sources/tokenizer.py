"""Tokenizers as models of Triton's python backend, so that clients can send plain text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from repo_builder.artifacts.address import is_address
from repo_builder.artifacts.contained import check_link
from repo_builder.product import Product
from repo_builder.signature import BATCH, Signature, Tensor
from repo_builder.sources.base import AssembledSource, Digest, SourceContext
from repo_builder.sources.location import artifact_state, cached_snapshot, local_path, model_path
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.sources import TokenizerSource as TokenizerSpec

TOKENIZER_NAME = "tokenizer.json"
SETTINGS_NAME = "settings.json"
_CODE = Path(__file__).with_name("tokenizer_model.py")
_SIGNATURE = Signature(
    (Tensor("text", "BYTES", (BATCH, 1)),),
    (
        Tensor("input_ids", "INT64", (BATCH, "sequence")),
        Tensor("attention_mask", "INT64", (BATCH, "sequence")),
    ),
)


class TokenizerSource(AssembledSource[TokenizerSpec]):
    """A tokenizer.json with the few lines that run it."""

    def state(
        self, spec: TokenizerSpec, context: SourceContext, digest: Digest
    ) -> dict[str, Any] | None:
        """Digests of the tokenizer and of the code that runs it."""
        tokenizer = _state(spec, context, digest)
        return None if tokenizer is None else {"tokenizer": tokenizer, "code": digest(_CODE)}

    def assemble(self, spec: TokenizerSpec, context: SourceContext, folder: Path) -> Product:
        """Copies the tokenizer and our model.py, and writes what they need to know."""
        place = model_path(spec.model, spec.revision, (TOKENIZER_NAME,), context)
        file = _file(context.model, place)
        settings = {
            "max_length": spec.max_length,
            "buckets": buckets(spec),
            "pad_id": _pad_id(context.model, file),
        }
        shutil.copyfile(file, folder / TOKENIZER_NAME)
        shutil.copyfile(_CODE, folder / "model.py")
        (folder / SETTINGS_NAME).write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return Product("python", _SIGNATURE)


def buckets(spec: TokenizerSpec) -> list[int]:
    """The lengths that sequences are padded to, ascending, ending in the longest allowed."""
    return sorted({size for size in spec.buckets if size < spec.max_length} | {spec.max_length})


def _state(spec: TokenizerSpec, context: SourceContext, digest: Digest) -> Any:
    """Of a folder on this machine only the tokenizer counts, and not the weights beside it."""
    if is_address(spec.model):
        return artifact_state(spec.model, context, digest)
    place = local_path(context.model, spec.model, context.base)
    if place is None:
        place = cached_snapshot(spec.model, spec.revision, (TOKENIZER_NAME,))
    return None if place is None else digest(_file(context.model, place))


def _file(model: str, place: Path) -> Path:
    """The tokenizer.json at a place on this machine."""
    if place.is_file():
        return place
    file = place / TOKENIZER_NAME
    if not file.is_file():
        hint = "Save it with the 'tokenizers' library, or with a fast Transformers tokenizer."
        raise SourceUnavailable(model, f"{place} has no {TOKENIZER_NAME}", hint)
    check_link(model, file, place)
    return file


def _pad_id(model: str, file: Path) -> int:
    """The id that fills a sequence up; 0 where the tokenizer has no padding token."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        if content.get("padding"):
            return int(content["padding"]["pad_id"])
        added = {token["content"]: int(token["id"]) for token in content.get("added_tokens", ())}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        hint = "Save it again with the 'tokenizers' library."
        raise SourceUnavailable(model, f"{file} is no tokenizer", hint) from error
    # What is masked out is never read, so that any id will do.
    return next((added[name] for name in ("[PAD]", "<pad>", "<|endoftext|>") if name in added), 0)
