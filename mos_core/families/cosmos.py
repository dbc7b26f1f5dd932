"""Cosmos Predict2 and Anima: the image alone in self-attention, text in cross-attention."""

from .family import (
    ALONE_IMAGE,
    ATTENTION,
    CROSS,
    EMBEDDING,
    FEED_FORWARD,
    IMAGE,
    PROJECTION,
    SAMPLE,
    TEXT,
    Encoder,
    Family,
    Latent,
    TokenSequence,
)
from .transformer import blocks, is_kind, roles

_ROLE = roles(
    (r"blocks\.\d+\.self_attn\.([qkv]_proj|output_proj)", IMAGE, ATTENTION),
    (r"blocks\.\d+\.cross_attn\.(q_proj|output_proj)", IMAGE, ATTENTION),
    (r"blocks\.\d+\.cross_attn\.[kv]_proj", TEXT, ATTENTION),
    (r"blocks\.\d+\.mlp\.layer[12]", IMAGE, FEED_FORWARD),
    (r"x_embedder\.proj\.1|final_layer\.linear", IMAGE, PROJECTION),
    (r".*adaln_modulation\w*\.\d", SAMPLE, EMBEDDING),
    (r"t_embedder\.1\.linear_\d", SAMPLE, EMBEDDING),
)
_LAYERS = blocks(CROSS, ("blocks", "num_blocks"))
_ATTENTION = {r"blocks\.\d+\.self_attn": ALONE_IMAGE, r"blocks\.\d+\.cross_attn": CROSS}

ANIMA = Family(
    "anima",
    "Anima",
    is_kind("anima"),
    _LAYERS,
    _ROLE,
    (Encoder("qwen3_06b", "qwen3_06b", 1024, learns_tokens=False),),
    Latent(16, 3, 8, 2),
    recompute=("Block",),
    file_marks=(r"llm_adapter_",),
    sequence=TokenSequence(_ATTENTION, words="t5xxl"),
)
COSMOS = Family(
    "cosmos",
    "Cosmos Predict2",
    is_kind("cosmos_predict2"),
    _LAYERS,
    _ROLE,
    (Encoder("t5xxl", "t5xxl", 1024, learns_tokens=False),),
    Latent(16, 3, 8, 2),
    recompute=("Block",),
    sequence=TokenSequence(_ATTENTION),
)
