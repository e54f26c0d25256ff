"""Tokenizers as models of Triton's python backend, so that clients can send plain text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from repo_builder.product import Product
from repo_builder.signature import BATCH, Signature, Tensor
from repo_builder.sources.base import AssembledSource, Digest, SourceContext
from repo_builder.sources.location import cached_snapshot, fetch_snapshot, local_path
from tritonfleet.errors import SourceUnavailable
from tritonfleet.spec.fleet import TokenizerSource as TokenizerSpec

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
        file = _find(spec, context)
        return None if file is None else {"tokenizer": digest(file), "code": digest(_CODE)}

    def assemble(self, spec: TokenizerSpec, context: SourceContext, folder: Path) -> Product:
        """Copies the tokenizer and our model.py, and writes what they need to know."""
        file = _find(spec, context) or (
            fetch_snapshot(context.model, spec.model, spec.revision, (TOKENIZER_NAME,))
            / TOKENIZER_NAME
        )
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


def _find(spec: TokenizerSpec, context: SourceContext) -> Path | None:
    place = local_path(context.model, spec.model, context.base)
    if place is None:
        place = cached_snapshot(spec.model, spec.revision, (TOKENIZER_NAME,))
    if place is None:
        return None
    file = place / TOKENIZER_NAME if place.is_dir() else place
    if not file.is_file():
        hint = "Save it with the 'tokenizers' library, or with a fast Transformers tokenizer."
        raise SourceUnavailable(context.model, f"{place} has no {TOKENIZER_NAME}", hint)
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
