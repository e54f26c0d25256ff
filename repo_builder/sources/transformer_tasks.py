"""Transformers models as modules whose forward is what will be served.

Imports torch, so it is imported only where a model is loaded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

POOLINGS = ("mean", "cls")


# torch ships no types that mypy is allowed to follow here, hence a base class of type Any.
class SentenceEmbedding(nn.Module):  # type: ignore[misc]
    """One vector of length 1 for each text."""

    def __init__(self, encoder: Any, pooling: str = "mean") -> None:
        super().__init__()
        self.encoder, self.pooling = encoder, pooling

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """The pooled and normalised hidden states."""
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        if self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
            pooled = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return nn.functional.normalize(pooled, dim=-1)


class TextModel(nn.Module):  # type: ignore[misc]  # as above
    """Token ids and a mask in, one field of the model's output out."""

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """The asked field, such as ``logits``."""
        return self.model(input_ids=input_ids, attention_mask=attention_mask)[self.field]


class ImageModel(nn.Module):  # type: ignore[misc]  # as above
    """Pixels in, one field of the model's output out."""

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, pixel_values: Any) -> Any:
        """The asked field, such as ``logits``."""
        return self.model(pixel_values=pixel_values)[self.field]


def seed(value: int) -> None:
    """Makes random weights the same in every process."""
    torch.manual_seed(value)
