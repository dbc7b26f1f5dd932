"""Z-Image and Lumina 2: text and image are refined apart, then run in one sequence."""

from .family import (
    ALONE_IMAGE,
    ALONE_TEXT,
    ATTENTION,
    BOTH,
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

_ROLE = roles(
    (r"layers\.\d+\.attention\.(qkv|out)", BOTH, ATTENTION),
    (r"layers\.\d+\.feed_forward\.w\d", BOTH, FEED_FORWARD),
    (r"noise_refiner\.\d+\.attention\.(qkv|out)", IMAGE, ATTENTION),
    (r"noise_refiner\.\d+\.feed_forward\.w\d", IMAGE, FEED_FORWARD),
    (r"context_refiner\.\d+\.attention\.(qkv|out)", TEXT, ATTENTION),
    (r"context_refiner\.\d+\.feed_forward\.w\d", TEXT, FEED_FORWARD),
    (r"x_embedder", IMAGE, PROJECTION),
    (r"cap_embedder\.1", TEXT, PROJECTION),
    (r"final_layer\.linear", BOTH, PROJECTION),
    (r".*adaLN_modulation\.\d", SAMPLE, EMBEDDING),
    (r"t_embedder\.mlp\.\d", SAMPLE, EMBEDDING),
    (r"(clip_text_pooled_proj|time_text_embed)\.1", SAMPLE, EMBEDDING),
)
_LAYERS = blocks(JOINT, ("layers", "n_layers"))
_SEQUENCE = TokenSequence(
    {
        r"context_refiner\.\d+\.attention": ALONE_TEXT,
        r"noise_refiner\.\d+\.attention": ALONE_IMAGE,
        r"layers\.\d+\.attention": JOINT,
    },
    positions="rope_embedder",
    counts_on=True,
    padded_behind="cap_embedder",
)
_RECOMPUTE = ("JointTransformerBlock",)

Z_IMAGE = Family(
    "z_image",
    "Z-Image",
    lambda config: is_kind("lumina2")(config) and bool(config.get("z_image_modulation")),
    _LAYERS,
    _ROLE,
    (Encoder("qwen3_4b", "qwen3_4b", 2560, learns_tokens=False),),
    Latent(16, 2, 8, 2),
    recompute=_RECOMPUTE,
    file_marks=(r"(noise|context)_refiner_\d+_.*adaLN_modulation_0", r"all_final_layer"),
    sequence=_SEQUENCE,
)
LUMINA2 = Family(
    "lumina2",
    "Lumina 2",
    is_kind("lumina2"),
    _LAYERS,
    _ROLE,
    (Encoder("gemma2_2b", "gemma2_2b", 2304, learns_tokens=False),),
    Latent(16, 2, 8, 2),
    recompute=_RECOMPUTE,
    sequence=_SEQUENCE,
)
