"""The families whose models are Stable Diffusion's UNet: SD1.5, SD2, SDXL, and the others."""

import re
from collections.abc import Mapping

from . import unet
from .family import (
    ATTENTION,
    CONVOLUTION,
    EMBEDDING,
    FEED_FORWARD,
    IMAGE,
    KEYS_VALUES,
    OTHERS,
    PROJECTION,
    SAMPLE,
    TEXT,
    TEXT_ENCODER,
    Encoder,
    Family,
    Role,
)
from .unet import Architecture, layers_of

_MODEL, _LAYER = "diffusion_model.", re.compile(r"(?:\w+\.)+transformer_blocks\.\d+")
_SAMPLE_ROWS = re.compile(r"(?:time_embed|label_emb(?:\.0)?)\.\d+|.*\.emb_layers\.1")
_CONVOLUTIONS = re.compile(r"(?:input_blocks|output_blocks|middle_block|out)\.[\w.]+")
_TEXT_LAYER = re.compile(r"(?P<layer>clip_[lgh]\.transformer\.[\w.]*layers\.\d+)\.(?P<rest>[\w.]+)")

TIME_ROWS = re.compile(r"\.emb_layers\.1$")  # of a residual block: one row per picture


def time_block_of(path: str) -> str:
    """The residual block of a module that TIME_ROWS finds."""
    return TIME_ROWS.sub("", path)


def role(path: str) -> Role | None:
    """The role of a module of the UNet or of a CLIP text encoder; path as `Site.path`."""
    text = _TEXT_LAYER.fullmatch(path)
    if text:
        return _text_role(path, text["layer"], text["rest"])
    name = path.removeprefix(_MODEL)
    if name == path:
        return None
    block = _LAYER.match(name)
    if block:
        return _block_role(path, name[block.end() + 1 :])
    if name.endswith((".proj_in", ".proj_out")):
        return Role(IMAGE, path, OTHERS, PROJECTION)
    if _SAMPLE_ROWS.fullmatch(name):
        return Role(SAMPLE, path, OTHERS, EMBEDDING)
    if _CONVOLUTIONS.fullmatch(name):
        return Role(IMAGE, path, OTHERS, CONVOLUTION)
    return None


def _text_role(path: str, layer: str, rest: str) -> Role | None:
    if rest in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"):
        return Role(TEXT, f"{layer}.self_attn.qkv", TEXT_ENCODER, ATTENTION)
    if rest == "self_attn.out_proj":
        return Role(TEXT, path, TEXT_ENCODER, ATTENTION)
    if rest in ("mlp.fc1", "mlp.fc2"):
        return Role(TEXT, path, TEXT_ENCODER, FEED_FORWARD)
    return None


def _block_role(path: str, rest: str) -> Role | None:
    attention = path.rpartition("." + rest.partition(".")[2])[0]
    if rest in ("attn1.to_q", "attn1.to_k", "attn1.to_v"):
        return Role(IMAGE, f"{attention}.qkv", OTHERS, ATTENTION)
    if rest in ("attn2.to_k", "attn2.to_v"):
        return Role(TEXT, f"{attention}.kv", KEYS_VALUES, ATTENTION)
    if rest in ("attn1.to_out.0", "attn2.to_out.0", "attn2.to_q"):
        return Role(IMAGE, path, OTHERS, ATTENTION)
    if rest in ("ff.net.0.proj", "ff.net.2"):
        return Role(IMAGE, path, OTHERS, FEED_FORWARD)
    return None


# --- the families -------------------------------------------------------------------------------

_RECOMPUTE = ("BasicTransformerBlock", "ResBlock", "CLIPLayer")
CLIP_L, CLIP_G = Encoder("clip_l", "l", 768), Encoder("clip_g", "g", 1280)
SD21_WIDTH = 1024  # of the text that Stable Diffusion 2's cross-attention reads (OpenCLIP-H)


def _has_layers_of(architecture: Architecture, config: Mapping) -> bool:
    return layers_of(config) == architecture.layers


def _is_sd21(config: Mapping) -> bool:
    return config.get("context_dim") == SD21_WIDTH and _has_layers_of(unet.SD15, config)


SD15 = Family(
    "sd15",
    "SD1.5",
    lambda config: _has_layers_of(unet.SD15, config),
    layers_of,
    role,
    (CLIP_L,),
    recompute=_RECOMPUTE,
    file_marks=(
        r"down_blocks_0_attentions_",
        r"input_blocks_1_1_",
    ),
    layerwise=True,
)
SD21 = Family(
    "sd21",
    "Stable Diffusion 2",
    _is_sd21,
    layers_of,
    role,
    (Encoder("clip_h", "h", SD21_WIDTH, learns_tokens=False),),
    recompute=_RECOMPUTE,
)
SDXL = Family(
    "sdxl",
    "SDXL",
    lambda config: _has_layers_of(unet.SDXL, config),
    layers_of,
    role,
    (CLIP_L, CLIP_G),
    recompute=_RECOMPUTE,
    file_marks=(
        r"lora_te2_text_model_encoder",
        r"mid_block_attentions_0_transformer_blocks_[1-9]",
        r"middle_block_1_transformer_blocks_[1-9]",
    ),
    layerwise=True,
)
OTHER = Family(  # SSD-1B, the refiner and others: no concept tokens of their own
    "sd",
    "another Stable Diffusion UNet",
    lambda config: bool(layers_of(config)),
    layers_of,
    role,
    (CLIP_L, CLIP_G),
    recompute=_RECOMPUTE,
)
