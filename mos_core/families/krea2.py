"""Krea 2: twelve layers of a language model are fused for each word, then one sequence runs."""

from .family import (
    ALONE_TEXT,
    ALONE_WORD,
    ATTENTION,
    BOTH,
    EMBEDDING,
    FEED_FORWARD,
    IMAGE,
    JOINT,
    PROJECTION,
    SAMPLE,
    TEXT,
    WORD,
    Encoder,
    Family,
    Latent,
    TokenSequence,
)
from .transformer import blocks, is_kind, roles

KREA2 = Family(
    "krea2",
    "Krea 2",
    is_kind("krea2"),
    blocks(JOINT, ("blocks", "layers")),
    roles(
        (r"blocks\.\d+\.attn\.(w[qkv]|gate)", BOTH, ATTENTION),
        (r"blocks\.\d+\.attn\.wo", BOTH, ATTENTION),
        (r"blocks\.\d+\.mlp\.(gate|up|down)", BOTH, FEED_FORWARD),
        (r"txtfusion\.layerwise_blocks\.\d+\.attn\.\w+", WORD, ATTENTION),
        (r"txtfusion\.layerwise_blocks\.\d+\.mlp\.\w+", WORD, FEED_FORWARD),
        (r"txtfusion\.projector", WORD, PROJECTION),
        (r"txtfusion\.refiner_blocks\.\d+\.attn\.\w+", TEXT, ATTENTION),
        (r"txtfusion\.refiner_blocks\.\d+\.mlp\.\w+", TEXT, FEED_FORWARD),
        (r"txtmlp\.[13]", TEXT, PROJECTION),
        (r"first", IMAGE, PROJECTION),
        (r"last\.linear", BOTH, PROJECTION),
        (r"tmlp\.\d|tproj\.1", SAMPLE, EMBEDDING),
    ),
    (Encoder("qwen3vl_4b", "qwen3vl_4b", 2560, learns_tokens=False),),
    Latent(16, 3, 8, 2),
    recompute=("SingleStreamBlock",),
    file_marks=(r"txtfusion_", r"blocks_\d+_attn_w[qkvo]"),
    sequence=TokenSequence(
        {
            r"txtfusion\.layerwise_blocks\.\d+\.attn": ALONE_WORD,
            r"txtfusion\.refiner_blocks\.\d+\.attn": ALONE_TEXT,
            r"blocks\.\d+\.attn": JOINT,
        },
        references=True,
        words_end=True,
    ),
)
