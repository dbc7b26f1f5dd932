"""Qwen-Image and Qwen-Image-Edit: text and image apart, but for their attention."""

from .family import (
    ATTENTION,
    EMBEDDING,
    FEED_FORWARD,
    IMAGE,
    JOINT,
    PROJECTION,
    SAMPLE,
    TEXT,
    Encoder,
    Family,
    Latent,
    TokenSequence,
)
from .transformer import blocks, is_kind, roles

QWEN_IMAGE = Family(
    "qwen_image",
    "Qwen-Image",
    is_kind("qwen_image"),
    blocks(JOINT, ("transformer_blocks", "num_layers")),
    roles(
        (r"transformer_blocks\.\d+\.attn\.(to_[qkv]|to_out\.0)", IMAGE, ATTENTION),
        (r"transformer_blocks\.\d+\.attn\.(add_[qkv]_proj|to_add_out)", TEXT, ATTENTION),
        (r"transformer_blocks\.\d+\.img_mlp\.net\.(0\.proj|2)", IMAGE, FEED_FORWARD),
        (r"transformer_blocks\.\d+\.txt_mlp\.net\.(0\.proj|2)", TEXT, FEED_FORWARD),
        (r"img_in|proj_out", IMAGE, PROJECTION),
        (r"txt_in", TEXT, PROJECTION),
        (r"transformer_blocks\.\d+\.(img|txt)_mod\.1", SAMPLE, EMBEDDING),
        (r"norm_out\.linear|time_text_embed\..*", SAMPLE, EMBEDDING),
    ),
    (Encoder("qwen25_7b", "qwen25_7b", 3584, learns_tokens=False),),
    Latent(16, 3, 8, 2),
    recompute=("QwenImageTransformerBlock",),
    file_marks=(r"transformer_blocks_\d+_(img|txt)_mod_1", r"transformer_blocks_\d+_img_mlp_net"),
    sequence=TokenSequence(
        {r"transformer_blocks\.\d+\.attn": JOINT},
        positions="pe_embedder",
        references=True,
        words_end=True,
    ),
)
