"""One small model of every kind that Transformers users bring, with random weights.

Each entry is a model of a fleet file, as its author would write it.
"""

from __future__ import annotations

from typing import Any

_ENCODER = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
_TEXT = {"vocab_size": 96, "max_position_embeddings": 64}
_BERT = {"model_type": "bert", **_TEXT, **_ENCODER}
_VISION = {"image_size": 16, "patch_size": 4, "num_channels": 3}
_CLIP = {
    "model_type": "clip",
    "projection_dim": 16,
    "text_config": {**_ENCODER, **_TEXT, "bos_token_id": 0, "eos_token_id": 95, "pad_token_id": 1},
    "vision_config": {**_ENCODER, **_VISION},
}
_WHISPER = {
    "model_type": "whisper",
    "vocab_size": 96,
    "num_mel_bins": 8,
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 64,
    "max_source_positions": 12,
    "max_target_positions": 16,
    "pad_token_id": 1,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 4,
}
_GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 96,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 96,
    "bos_token_id": 0,
    "eos_token_id": 95,
}
_LLAMA = {
    "model_type": "llama",
    **_ENCODER,
    "vocab_size": 96,
    "max_position_embeddings": 96,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 95,
}
_T5 = {
    "model_type": "t5",
    "vocab_size": 96,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0,
}
_DEBERTA = {
    "model_type": "deberta-v2",
    **_TEXT,
    **_ENCODER,
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_buckets": 16,
    "type_vocab_size": 0,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "position_biased_input": False,
}
_DISTILBERT = {
    "model_type": "distilbert",
    **_TEXT,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 64,
}
_ROBERTA = {"model_type": "roberta", **_TEXT, **_ENCODER, "pad_token_id": 1}
_VIT = {"model_type": "vit", **_VISION, **_ENCODER}


def _entry(task: str, random_weights: dict[str, Any], **serving: Any) -> dict[str, Any]:
    source = {"kind": "huggingface", "task": task, "random_weights": random_weights}
    return {"source": source, "serving": serving} if serving else {"source": source}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert_embedding": _entry("sentence-embedding", _BERT),
    "bert_features": _entry("feature-extraction", _BERT),
    "bert_tokens": _entry("token-classification", {**_BERT, "num_labels": 5}),
    "bert_answers": _entry("question-answering", _BERT),
    "distilbert": _entry("sequence-classification", {**_DISTILBERT, "num_labels": 3}),
    "roberta": _entry("sequence-classification", _ROBERTA),
    "deberta_v2": _entry("token-classification", _DEBERTA),
    "vit": _entry("image-classification", {**_VIT, "num_labels": 4}),
    "clip": _entry("dual-encoder", _CLIP),
    "clip_text": _entry("dual-encoder-text", _CLIP),
    "clip_image": _entry("dual-encoder-image", _CLIP),
    "whisper_encoder": _entry("speech-encoder", _WHISPER),
    "gpt2": _entry("text-generation", _GPT2),
    "gpt2_with_past": _entry("text-generation-with-past", _GPT2),
    "llama": _entry("text-generation", _LLAMA),
    "llama_with_past": _entry("text-generation-with-past", _LLAMA),
    "t5": _entry("text2text-generation", _T5),
    "t5_encoder": _entry("text2text-encoder", _T5),
    "t5_decoder": _entry("text2text-decoder", _T5),
}
GENERATING = tuple(
    name
    for name, entry in ARCHITECTURES.items()
    if entry["source"]["task"].startswith(("text-generation", "text2text-"))
    and entry["source"]["task"] != "text2text-encoder"
)
