"""Flux.1, Flux.2 and Chroma: text and image apart in double blocks, in one sequence in single ones.

Sequence of their attention: text, image, reference pictures.
"""

from dataclasses import replace

from .family import (
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
    (r"double_blocks\.\d+\.img_attn\.(qkv|proj)", IMAGE, ATTENTION),
    (r"double_blocks\.\d+\.txt_attn\.(qkv|proj)", TEXT, ATTENTION),
    (r"double_blocks\.\d+\.img_mlp\.(\d|\w+_proj)", IMAGE, FEED_FORWARD),
    (r"double_blocks\.\d+\.txt_mlp\.(\d|\w+_proj)", TEXT, FEED_FORWARD),
    (r"single_blocks\.\d+\.linear[12]", BOTH, ATTENTION),  # q, k, v and feed-forward in one weight
    (r"img_in|final_layer\.linear", IMAGE, PROJECTION),
    (r"txt_in", TEXT, PROJECTION),
    (r".*(_mod|modulation\w*|_modulation_\w+)\.(lin|1)", SAMPLE, EMBEDDING),
    (r"(time|vector|guidance)_in\.(in|out)_layer", SAMPLE, EMBEDDING),
    (r"distilled_guidance_layer\..*", SAMPLE, EMBEDDING),
)
_LAYERS = blocks(JOINT, ("double_blocks", "depth"), ("single_blocks", "depth_single_blocks"))
_SEQUENCE = TokenSequence(
    {r"double_blocks\.\d+": JOINT, r"single_blocks\.\d+": JOINT},
    positions="pe_embedder",
    references=True,
)
_RECOMPUTE = ("DoubleStreamBlock", "SingleStreamBlock")
_T5 = Encoder("t5xxl", "t5xxl", 4096, learns_tokens=False)

FLUX = Family(
    "flux",
    "Flux.1",
    is_kind("flux"),
    _LAYERS,
    _ROLE,
    (_T5, Encoder("clip_l", "l", 768, learns_tokens=False)),
    Latent(16, 2, 8, 2),
    recompute=_RECOMPUTE,
    # What Flux.2 and Chroma do not have; files of the attentions alone may be for either.
    file_marks=(
        r"double_blocks_\d+_(img|txt)_mod_lin",
        r"single_transformer_blocks_\d+_norm_linear",
        r"vector_in_",
    ),
    sequence=_SEQUENCE,
)
FLUX2 = Family(
    "flux2",
    "Flux.2",
    is_kind("flux2"),
    _LAYERS,
    _ROLE,
    (Encoder("mistral3_24b", "mistral3_24b", 5120, learns_tokens=False),),
    Latent(128, 2, 16, 1),
    recompute=_RECOMPUTE,
    file_marks=(
        r"(double|single)_stream_modulation",
        r"single_transformer_blocks_\d+_attn_to_qkv_mlp_proj",
    ),
    sequence=replace(_SEQUENCE, words_end=True),
)
CHROMA = Family(
    "chroma",
    "Chroma",
    is_kind("chroma"),
    _LAYERS,
    _ROLE,
    (_T5,),
    Latent(16, 2, 8, 2),
    recompute=_RECOMPUTE,
    file_marks=(r"distilled_guidance_layer",),
    sequence=_SEQUENCE,
)
