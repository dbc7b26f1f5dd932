"""Miniature checkpoints of SDXL's shape at any width: ComfyUI's own UNet, its two CLIPs, and a
TAESD-shaped VAE.

The widths of the texts decide what the UNet reads: `context_dim` is both encoders' width together,
`adm_in_channels` is the second one's (its pooled text) and six sizes of 256.
"""

from typing import Any

import torch

from ...errors import FileFormatError
from ...formats.miniature_file import TOKEN_ROWS, TOKEN_TABLE, complete_token_table
from .miniature_parts import TEXT_KEYS, as_patcher, build_vae, check_keys, load_exactly

# What makes SDXL's topology: 70 cross-attention layers in the second and third of three levels.
SDXL_TOPOLOGY = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "use_temporal_attention": False,
    "num_head_channels": -1,
}
UNET_KEYS = ("model_channels", "channel_mult", "num_heads")
ENCODERS = ("clip_l", "clip_g")
SIZES = 6 * 256  # height, width, where it was cropped, and the height and width aimed at


def build_sdxl(
    config: dict, parts: list[dict], embedding_directory: str | None = None
) -> tuple[Any, Any, Any]:
    """-> (comfy ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE). config: the file's record; parts: the
    weights of UNet, CLIP-L, CLIP-G and VAE. Raises FileFormatError."""
    unet, clip_l, clip_g, vae = parts
    text = config["text_encoder"]
    check_keys(text, ENCODERS, "text encoder")
    for name in ENCODERS:
        check_keys(text[name], TEXT_KEYS, f"{name} text encoder")
    return (
        build_unet(config["model"], text, unet),
        build_texts(text, {"clip_l": clip_l, "clip_g": clip_g}, embedding_directory),
        build_vae(vae),
    )


def sdxl_config(config: dict, text: dict) -> dict:
    """The file's sizes with what makes SDXL's topology. text: both encoders' configurations."""
    check_keys(config, UNET_KEYS, "UNet")
    l_width, g_width = (text[name]["hidden_size"] for name in ENCODERS)
    widths = {"context_dim": l_width + g_width, "adm_in_channels": g_width + SIZES}
    return {**SDXL_TOPOLOGY, **widths, **config}


def build_unet(config: dict, text: dict, state_dict: dict) -> Any:
    """An SDXL-shaped UNet -> comfy ModelPatcher (noise prediction, SDXL's latents)."""
    import comfy.supported_models

    class MiniatureSDXL(comfy.supported_models.SDXL):
        unet_extra_config: dict = {}  # noqa: RUF012  heads come from the configuration

    return as_patcher(MiniatureSDXL(sdxl_config(config, text)), state_dict, "UNet")


def build_texts(text: dict, weights: dict, embedding_directory: str | None = None) -> Any:
    """CLIP-L and CLIP-G of any width with ComfyUI's stock tokenizers -> comfy.sd.CLIP.

    text, weights: configuration and weights by the encoder's name. Token tables may be partial.
    """
    import comfy.model_management as management
    import comfy.sd
    from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
    from comfy.supported_models_base import ClipTarget

    options: dict = {f"{name}_model_config": dict(text[name]) for name in ENCODERS}
    if management.is_device_cpu(management.text_encoder_device()):
        options["dtype"] = torch.float32
    width = {name: text[name]["hidden_size"] for name in ENCODERS}
    clip = comfy.sd.CLIP(
        ClipTarget(SDXLTokenizer, SDXLClipModel),
        embedding_directory=embedding_directory,
        model_options=options,
        parameters=sum(tensor.numel() for part in weights.values() for tensor in part.values()),
    )
    for name in ENCODERS:
        # these tokenizers take no width when they are made
        getattr(clip.tokenizer, name).embedding_size = width[name]
        part = dict(weights[name])
        if TOKEN_TABLE not in part:
            raise FileFormatError(f"{name} has no token table ('{TOKEN_TABLE}').")
        part[TOKEN_TABLE] = complete_token_table(part[TOKEN_TABLE], part.pop(TOKEN_ROWS, None))
        part.setdefault("transformer.text_projection.weight", torch.eye(width[name]))
        part.setdefault("logit_scale", torch.tensor(4.6055))
        load_exactly(getattr(clip.cond_stage_model, name), part, f"{name} text encoder")
    return clip
