"""Transformers models as modules whose forward is what will be served.

Imports torch, so it is imported only where a model is loaded.
"""

from __future__ import annotations

import inspect
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
    """Token ids and a mask in, fields of the model's output out."""

    def __init__(self, model: Any, *fields: str) -> None:
        super().__init__()
        self.model, self.fields = model, fields

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """The asked fields, such as ``logits``."""
        result = self.model(input_ids=input_ids, attention_mask=attention_mask)
        found = tuple(result[field] for field in self.fields)
        return found if len(found) > 1 else found[0]


class ImageModel(nn.Module):  # type: ignore[misc]  # as above
    """Pixels in, one field of the model's output out."""

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, pixel_values: Any) -> Any:
        """The asked field, such as ``logits``."""
        return self.model(pixel_values=pixel_values)[self.field]


class SpeechEncoder(nn.Module):  # type: ignore[misc]  # as above
    """Spectrogram features in, one vector for each stretch of time out."""

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Any) -> Any:
        """The hidden states."""
        return self.encoder(input_features).last_hidden_state


class TextTower(nn.Module):  # type: ignore[misc]  # as above
    """The texts' side of a dual encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """Vectors of length 1 in the space shared with the images."""
        found = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return _unit_vectors(found)


class ImageTower(nn.Module):  # type: ignore[misc]  # as above
    """The images' side of a dual encoder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Any) -> Any:
        """Vectors of length 1 in the space shared with the texts."""
        return _unit_vectors(self.model.get_image_features(pixel_values=pixel_values))


class DualEncoder(nn.Module):  # type: ignore[misc]  # as above
    """Any number of images and any number of texts in, a vector for each out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.texts, self.images = TextTower(model), ImageTower(model)

    def forward(self, pixel_values: Any, input_ids: Any, attention_mask: Any) -> Any:
        """The texts' vectors, then the images'."""
        return self.texts(input_ids, attention_mask), self.images(pixel_values)


def _unit_vectors(features: Any) -> Any:
    # Releases before 5 give the tensor itself.
    vectors = getattr(features, "pooler_output", features)
    return nn.functional.normalize(vectors, dim=-1)


class CausalModel(nn.Module):  # type: ignore[misc]  # as above
    """A language model that reads a whole text at once."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.positioned = _takes_positions(model)

    def forward(self, input_ids: Any, attention_mask: Any) -> Any:
        """The scores of the next token, at every place."""
        more = {"position_ids": positions(attention_mask)} if self.positioned else {}
        return self.model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False, **more
        ).logits


class CachedCausalModel(nn.Module):  # type: ignore[misc]  # as above
    """A language model that continues from the keys and values of what it has read.

    A cache of length 0 works as well, so one graph reads the prompt and adds the tokens.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.positioned = _takes_positions(model)

    def forward(self, input_ids: Any, attention_mask: Any, *past: Any) -> Any:
        """The scores of the next token, then the longer cache: a key and a value for each layer."""
        from transformers import DynamicCache

        cache = DynamicCache()
        for layer in range(len(past) // 2):
            cache.update(past[2 * layer], past[2 * layer + 1], layer)
        more = {}
        if self.positioned:
            more["position_ids"] = positions(attention_mask)[:, -input_ids.shape[1] :]
        result = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            past_key_values=cache,
            use_cache=True,
            **more,
        )
        present = [
            part for layer in result.past_key_values.layers for part in (layer.keys, layer.values)
        ]
        return (result.logits, *present)


def positions(attention_mask: Any) -> Any:
    """Each token's place in its own text, so that padding on the left shifts nothing."""
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)


def _takes_positions(model: Any) -> bool:
    takes = "position_ids" in inspect.signature(model.forward).parameters
    # Where positions begin elsewhere than at 0, the model counts them by itself.
    return takes and position_offset(model) == 0


def position_offset(model: Any) -> int:
    """The position of the first token: RoBERTa's kind begins behind the padding's own."""
    for name, module in model.named_modules():
        padding = getattr(module, "padding_idx", None)
        if name.endswith("position_embeddings") and padding is not None:
            return int(padding) + 1
    return 0


class SequenceToSequence(nn.Module):  # type: ignore[misc]  # as above
    """A text and the beginning of its answer in, scores of the answer's next token out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, decoder_input_ids: Any) -> Any:
        """The scores at every place of the answer."""
        return self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


class SequenceDecoder(nn.Module):  # type: ignore[misc]  # as above
    """The decoder's side: an encoded text and the beginning of its answer in, scores out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, decoder_input_ids: Any, encoder_hidden_states: Any, encoder_attention_mask: Any
    ) -> Any:
        """The scores at every place of the answer."""
        from transformers.modeling_outputs import BaseModelOutput

        return self.model(
            encoder_outputs=BaseModelOutput(last_hidden_state=encoder_hidden_states),
            attention_mask=encoder_attention_mask,
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        ).logits


def seed(value: int) -> None:
    """Makes random weights the same in every process."""
    torch.manual_seed(value)


def past_shapes(model: Any) -> tuple[tuple[int, int], ...]:
    """For each key and value of the cache: its number of heads and the size of each; none if none.

    Asked of the model itself by reading one token, because every family names them its own way.
    """
    with torch.no_grad():
        result = model(input_ids=torch.zeros((1, 1), dtype=torch.int64), use_cache=True)
    layers = getattr(getattr(result, "past_key_values", None), "layers", ())
    # Layers of other kinds keep states instead, and a model may mix both.
    parts = (getattr(layer, name, ()) for layer in layers for name in ("keys", "values"))
    shapes = [tuple(getattr(part, "shape", ())) for part in parts]
    if any(len(shape) != 4 for shape in shapes):
        return ()
    return tuple((int(shape[1]), int(shape[3])) for shape in shapes)


def encoded(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    """What the encoder of a sequence-to-sequence model gives, as an array."""
    with torch.no_grad():
        found = model.get_encoder()(
            input_ids=torch.from_numpy(input_ids), attention_mask=torch.from_numpy(attention_mask)
        )
    return found.last_hidden_state.numpy()
