"""Miniature checkpoints of Flux.1's shape (Schnell: no guidance embedding), at any width.

The transformer is ComfyUI's `Flux`, the texts are its T5 and CLIP-L, the VAE is TAESD's shape with
16 channels. Prompts are padded to as many T5 tokens as the file says, in place of 256.
"""

import functools
from typing import Any

import torch

from ...errors import FileFormatError
from ...formats.miniature_file import (
    T5_ROWS,
    T5_TABLE,
    T5_VOCABULARY,
    TOKEN_ROWS,
    TOKEN_TABLE,
    complete_token_table,
)
from .miniature_parts import TEXT_KEYS, as_patcher, build_vae, check_keys, load_exactly

FLUX_TOPOLOGY = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "mlp_ratio": 4.0,
    "qkv_bias": True,
    "guidance_embed": False,
    "theta": 10000,
}
FLUX_KEYS = (
    "hidden_size",
    "num_heads",
    "axes_dim",
    "depth",
    "depth_single_blocks",
    "context_in_dim",
    "vec_in_dim",
)
T5_KEYS = ("d_model", "d_ff", "d_kv", "num_heads", "num_layers", "min_length")
T5_SHAPE = {
    "dense_act_fn": "gelu_pytorch_tanh",
    "is_gated_act": True,
    "model_type": "t5",
    "vocab_size": T5_VOCABULARY,
}


def build_flux(
    config: dict, parts: list[dict], embedding_directory: str | None = None
) -> tuple[Any, Any, Any]:
    """-> (comfy ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE). config: the file's record; parts: the
    weights of transformer, CLIP-L, T5 and VAE. Raises FileFormatError."""
    model, clip_l, t5, vae = parts
    text = config["text_encoder"]
    check_keys(text, ("clip_l", "t5xxl"), "text encoder")
    return (
        build_transformer(config["model"], model),
        build_texts(text["clip_l"], clip_l, text["t5xxl"], t5, embedding_directory),
        build_vae(vae),
    )


def flux_config(config: dict) -> dict:
    """The file's sizes with what makes Flux.1's topology, as the running ComfyUI wants to be
    asked."""
    from comfy.ldm.flux.model import FluxParams

    check_keys(config, FLUX_KEYS, "transformer")
    full = {**FLUX_TOPOLOGY, **config}
    if "txt_ids_dims" in FluxParams.__dataclass_fields__:  # newer versions
        full.setdefault("txt_ids_dims", [])
    return full


def build_transformer(config: dict, state_dict: dict) -> Any:
    """A Flux.1-shaped transformer -> comfy ModelPatcher (rectified flow, shift 1, as Schnell)."""
    import comfy.supported_models

    model_config = comfy.supported_models.FluxSchnell(flux_config(config))
    return as_patcher(model_config, with_norm_names(state_dict), "transformer")


def with_norm_names(state_dict: dict) -> dict:
    """The norms of queries and keys have a `scale` in some versions, a `weight` in others."""
    from comfy.ldm.flux.layers import QKNorm

    norm = QKNorm(8, dtype=torch.float32, device="meta", operations=torch.nn)
    (name,) = dict(norm.query_norm.named_parameters())
    ends = [f"{which}_norm.{kind}" for which in ("query", "key") for kind in ("scale", "weight")]
    return {
        f"{key.rpartition('.')[0]}.{name}" if key.endswith(tuple(ends)) else key: tensor
        for key, tensor in state_dict.items()
    }


def build_texts(
    clip_config: dict, clip_l: dict, t5_config: dict, t5: dict, directory: str | None = None
) -> Any:
    """CLIP-L and T5 of any width with ComfyUI's stock tokenizers -> comfy.sd.CLIP."""
    import comfy.model_management as management
    import comfy.sd
    from comfy.sd1_clip import SDTokenizer
    from comfy.supported_models_base import ClipTarget
    from comfy.text_encoders.flux import FluxTokenizer, flux_clip

    check_keys(clip_config, TEXT_KEYS, "CLIP text encoder")
    check_keys(t5_config, T5_KEYS, "T5 text encoder")
    clip_l = with_table(clip_l, TOKEN_TABLE, TOKEN_ROWS)
    t5 = with_table(t5, T5_TABLE, T5_ROWS, T5_VOCABULARY)
    width = clip_config["hidden_size"]
    clip_l.setdefault("transformer.text_projection.weight", torch.eye(width))
    clip_l.setdefault("logit_scale", torch.tensor(4.6055))
    sizes = {**T5_SHAPE, **t5_config}
    min_length = sizes.pop("min_length")
    model_options = {"clip_l_model_config": dict(clip_config), "t5xxl_model_config": sizes}
    if management.is_device_cpu(management.text_encoder_device()):
        model_options["dtype"] = torch.float32
    clip = comfy.sd.CLIP(
        ClipTarget(FluxTokenizer, flux_clip()),
        embedding_directory=directory,
        model_options=model_options,
        tokenizer_data={
            "clip_l_tokenizer_class": functools.partial(SDTokenizer, embedding_size=width),
            "t5xxl_min_length": min_length,
        },
        parameters=sum(tensor.numel() for part in (clip_l, t5) for tensor in part.values()),
    )
    clip.tokenizer.t5xxl.embedding_size = sizes["d_model"]
    load_exactly(clip.cond_stage_model.clip_l, clip_l, "CLIP text encoder")
    t5.setdefault("logit_scale", torch.tensor(4.6055))
    load_exactly(clip.cond_stage_model.t5xxl, t5, "T5 text encoder")
    return clip


def with_table(part: dict, table: str, rows: str, *vocabulary: int) -> dict:
    """The weights with a complete token table; raises FileFormatError without one."""
    if table not in part:
        raise FileFormatError(f"The text encoder has no token table ('{table}').")
    part = dict(part)
    part[table] = complete_token_table(part[table], part.pop(rows, None), *vocabulary)
    return part
