"""Miniature checkpoints: SD1.5's topology at any width, built from ComfyUI's own classes.

The file (formats/miniature_file.py) has ComfyUI's key names and a record of its sizes. Nothing
global of ComfyUI is changed.
"""

import functools
from pathlib import Path
from typing import Any

import torch

from ...errors import FileFormatError
from ...formats.miniature_file import (
    CLIP_PREFIX,
    FLUX_PREFIXES,
    SDXL_PREFIXES,
    TOKEN_ROWS,
    TOKEN_TABLE,
    UNET_PREFIX,
    VAE_PREFIX,
    complete_token_table,
    read_miniature_metadata,
    read_miniature_tensors,
    split_parts,
)
from .miniature_flux import build_flux
from .miniature_parts import TEXT_KEYS, as_patcher, build_vae, check_keys, load_exactly
from .miniature_sdxl import build_sdxl

# What makes SD1.5's topology: 16 cross-attention layers, in the first three levels and the middle.
SD15_TOPOLOGY = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "num_head_channels": -1,
}
UNET_KEYS = ("model_channels", "channel_mult", "context_dim", "num_heads")
OTHERS: dict[str, tuple[Any, tuple[str, ...]]] = {
    "flux": (build_flux, FLUX_PREFIXES),
    "sdxl": (build_sdxl, SDXL_PREFIXES),
}


def load_miniature(
    path: str | Path, embedding_directory: str | None = None
) -> tuple[Any, Any, Any]:
    """Loads a miniature checkpoint -> (comfy ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE).

    `embedding_directory` is where ComfyUI's `embedding:name` looks. Raises FileFormatError.
    """
    config = read_miniature_metadata(path)
    tensors = read_miniature_tensors(path)
    if "family" in config:
        build, prefixes = OTHERS[config["family"]]
        return build(config, split_parts(path, tensors, prefixes), embedding_directory)
    unet, text, vae = split_parts(path, tensors, (UNET_PREFIX, CLIP_PREFIX, VAE_PREFIX))
    return (
        build_unet(config["unet"], unet),
        build_clip(config["text_encoder"], text, embedding_directory),
        build_vae(vae),
    )


def build_unet(config: dict, state_dict: dict) -> Any:
    """An SD1.5-shaped UNet of any width -> comfy ModelPatcher (epsilon prediction, SD1.5's noise
    schedule).

    `config`: `model_channels`, `channel_mult` (4 levels), `context_dim`, `num_heads`; other keys
    of ComfyUI's UNetModel
    override SD15_TOPOLOGY. `state_dict`: the UNet's own key names, without a prefix; every weight
    must be there.
    """
    import comfy.supported_models

    check_keys(config, UNET_KEYS, "UNet")

    class MiniatureSD15(comfy.supported_models.SD15):
        unet_extra_config: dict = {}  # noqa: RUF012  heads come from the configuration

    return as_patcher(MiniatureSD15({**SD15_TOPOLOGY, **config}), state_dict, "UNet")


def build_clip(config: dict, state_dict: dict, embedding_directory: str | None = None) -> Any:
    """A CLIP text encoder of any width with ComfyUI's stock SD1 tokenizer -> comfy.sd.CLIP.

    `config`: `hidden_size`, `intermediate_size`, `num_attention_heads`, `num_hidden_layers` and
    other CLIP settings.
    `state_dict`: `transformer.text_model.*`. Its token table may be partial, see
    `complete_token_table`.
    """
    import comfy.model_management as management
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDTokenizer
    from comfy.supported_models_base import ClipTarget

    check_keys(config, TEXT_KEYS, "text encoder")
    width, state_dict = config["hidden_size"], dict(state_dict)
    if TOKEN_TABLE not in state_dict:
        raise FileFormatError(f"The text encoder has no token table ('{TOKEN_TABLE}').")
    state_dict[TOKEN_TABLE] = complete_token_table(
        state_dict[TOKEN_TABLE], state_dict.pop(TOKEN_ROWS, None)
    )
    state_dict.setdefault("transformer.text_projection.weight", torch.eye(width))
    state_dict.setdefault(
        "logit_scale", torch.tensor(4.6055)
    )  # CLIP's; not used by a text encoder alone
    model_options = {"clip_l_model_config": dict(config)}
    if management.is_device_cpu(management.text_encoder_device()):
        model_options["dtype"] = torch.float32
    clip = comfy.sd.CLIP(
        ClipTarget(SD1Tokenizer, SD1ClipModel),
        embedding_directory=embedding_directory,
        model_options=model_options,
        tokenizer_data={
            "clip_l_tokenizer_class": functools.partial(SDTokenizer, embedding_size=width)
        },
        parameters=sum(tensor.numel() for tensor in state_dict.values()),
    )
    load_exactly(clip.cond_stage_model.clip_l, state_dict, "text encoder")
    return clip
