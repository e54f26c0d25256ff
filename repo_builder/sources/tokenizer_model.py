"""Tokenizes text inside Triton's python backend.

This file is published as ``model.py`` beside a ``tokenizer.json``. It imports nothing but the
tokenizers library and numpy, which the backend has loaded already: what a cold start waits for.
"""

import json
import os
from pathlib import Path
from typing import Any

# One process for each instance does the sharing; a thread pool in each would only cost memory.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import triton_python_backend_utils as pb_utils
from tokenizers import Tokenizer


class TritonPythonModel:
    """Turns ``text`` into ``input_ids`` and ``attention_mask``."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the tokenizer; its own padding and truncation do not hold, ours do."""
        folder = Path(args["model_repository"]) / args["model_version"]
        settings = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
        self.buckets: list[int] = settings["buckets"]
        self.pad_id: int = settings["pad_id"]
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(max_length=settings["max_length"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response for each request; a text that is not UTF-8 fails its own request only."""
        return [self._respond(request) for request in requests]

    def _respond(self, request: Any) -> Any:
        rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
        try:
            texts = [_text(row) for row in rows]
        except UnicodeDecodeError as error:
            message = f"'text' is not UTF-8: {error.reason} at byte {error.start}"
            return pb_utils.InferenceResponse(
                error=pb_utils.TritonError(message, pb_utils.TritonError.INVALID_ARG)
            )
        ids, mask = self._encode(texts)
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor("input_ids", ids), pb_utils.Tensor("attention_mask", mask)]
        )

    def _encode(self, texts: list[str]) -> Any:
        """Ids and mask of one request's texts, padded to the bucket of the longest."""
        encoded = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        longest = max(map(len, encoded), default=0)
        width = next(size for size in self.buckets if size >= longest)
        ids = np.full((len(encoded), width), self.pad_id, dtype=np.int64)
        mask = np.zeros((len(encoded), width), dtype=np.int64)
        for row, tokens in enumerate(encoded):
            ids[row, : len(tokens)] = tokens
            mask[row, : len(tokens)] = 1
        return ids, mask


def _text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode("utf-8")
