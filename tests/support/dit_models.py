"""Tiny diffusion transformers: ComfyUI's own classes with random weights, fp32, on the CPU.

What the running ComfyUI does not have is skipped by its name. The weights come from a seed and
from each tensor's name, so that two versions of ComfyUI draw the same picture.
"""

import zlib
from dataclasses import dataclass, field

import comfy.model_base
import comfy.supported_models
import pytest
import torch

from .tiny_models import patcher_of

NEWER_FLUX = hasattr(comfy.supported_models, "Krea2")  # Flux wants `txt_ids_dims` from there on


@dataclass(frozen=True)
class TinyDiT:
    """kind: class of comfy.supported_models. config: its unet_config. width: of a text token.
    channels, time: of a latent, and whether it has a time axis. extras: of the conditioning.
    text: how many tokens the model makes of fewer."""

    kind: str
    config: dict
    width: int
    channels: int = 16
    time: bool = False
    extras: dict = field(default_factory=dict)
    text: int = 0


FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 20,
    "context_in_dim": 24,
    "hidden_size": 32,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 2,
    "axes_dim": [4, 6, 6],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
}
Z_IMAGE = {
    "image_model": "lumina2",
    "patch_size": 2,
    "in_channels": 16,
    "dim": 256,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 2,
    "axes_dims": [32, 48, 48],
    "axes_lens": [300, 512, 512],
    "multiple_of": 16,
    "ffn_dim_multiplier": 8 / 3,
    "qk_norm": True,
    "cap_feat_dim": 24,
    "rope_theta": 256.0,
    "z_image_modulation": True,
    "pad_tokens_multiple": 32,
    "time_scale": 1000.0,
}
TINY = {
    "flux": TinyDiT(
        "Flux",
        FLUX | ({"txt_ids_dims": []} if NEWER_FLUX else {}),
        24,
        extras={"pooled_output": torch.linspace(-1, 1, 20)[None], "guidance": 3.5},
    ),
    "flux2": TinyDiT(
        "Flux2",
        FLUX
        | {
            "image_model": "flux2",
            "in_channels": 128,
            "out_channels": 128,
            "vec_in_dim": None,
            "axes_dim": [4, 4, 4, 4],
            "patch_size": 1,
            "qkv_bias": False,
            "guidance_embed": False,
            "global_modulation": True,
            "mlp_silu_act": True,
            "ops_bias": False,
        }
        | ({"txt_ids_dims": [3]} if NEWER_FLUX else {}),
        24,
        channels=128,
        extras={"pooled_output": None},
        text=512,
    ),
    "chroma": TinyDiT(
        "Chroma",
        {k: v for k, v in FLUX.items() if k not in ("guidance_embed", "vec_in_dim")}
        | {
            "image_model": "chroma",
            "in_channels": 64,
            "out_channels": 64,
            "in_dim": 64,
            "out_dim": 32,
            "hidden_dim": 32,
            "n_layers": 1,
        }
        | ({"txt_ids_dims": [], "vec_in_dim": None} if NEWER_FLUX else {}),
        24,
        extras={"pooled_output": None, "guidance": 0.0},
    ),
    "z_image": TinyDiT("Lumina2", Z_IMAGE, 24),
    "lumina2": TinyDiT(
        "Lumina2",
        {k: v for k, v in Z_IMAGE.items() if k not in ("z_image_modulation", "pad_tokens_multiple")}
        | {"dim": 32, "n_kv_heads": 1, "axes_dims": [4, 6, 6], "ffn_dim_multiplier": 4.0},
        24,
    ),
    "qwen_image": TinyDiT(
        "QwenImage",
        {
            "image_model": "qwen_image",
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 2,
            "attention_head_dim": 16,
            "num_attention_heads": 2,
            "joint_attention_dim": 24,
            "axes_dims_rope": (4, 6, 6),
        },
        24,
        time=True,
    ),
    "krea2": TinyDiT(
        "Krea2",
        {
            "image_model": "krea2",
            "features": 32,
            "heads": 2,
            "kvheads": 1,
            "layers": 2,
            "txtlayers": 3,
            "txtdim": 16,
            "txtheads": 1,
            "txtkvheads": 1,
            "tdim": 32,
        },
        48,
        time=True,
    ),
    "cosmos": TinyDiT(
        "CosmosT2IPredict2",
        {
            "image_model": "cosmos_predict2",
            "max_img_h": 240,
            "max_img_w": 240,
            "max_frames": 128,
            "in_channels": 16,
            "out_channels": 16,
            "patch_spatial": 2,
            "patch_temporal": 1,
            "model_channels": 32,
            "num_blocks": 2,
            "num_heads": 2,
            "concat_padding_mask": True,
            "crossattn_emb_channels": 24,
            "pos_emb_cls": "rope3d",
            "pos_emb_learnable": False,
            "pos_emb_interpolation": "crop",
            "min_fps": 1,
            "max_fps": 30,
            "use_adaln_lora": True,
            "adaln_lora_dim": 8,
            "extra_per_block_abs_pos_emb": False,
            "rope_h_extrapolation_ratio": 4.0,
            "rope_w_extrapolation_ratio": 4.0,
            "rope_t_extrapolation_ratio": 1.0,
            "rope_enable_fps_modulation": False,
        },
        24,
        time=True,
    ),
}
JOINT = tuple(name for name in TINY if name != "cosmos")


def tiny_dit(name: str, dtype=torch.float32, manual_cast=None, seed: int = 0):
    """A ModelPatcher of the family; skips the test if the running ComfyUI has no such class."""
    tiny = TINY[name]
    kind = getattr(comfy.supported_models, tiny.kind, None)
    if kind is None:
        pytest.skip(f"this ComfyUI has no {tiny.kind}")
    config = kind(dict(tiny.config))
    config.set_inference_dtype(dtype, manual_cast)
    model = config.get_model({}, "", device="cpu")
    fill(model.diffusion_model, seed)
    return patcher_of(model)


def fill(model: torch.nn.Module, seed: int) -> None:
    """Random weights, each from the seed and its name (norms were renamed between versions)."""
    for name, weight in model.state_dict().items():
        known = name.replace("norm.scale", "norm.weight")
        generator = torch.Generator().manual_seed(zlib.crc32(known.encode()) + seed)
        values = torch.randn(weight.shape, generator=generator)
        if weight.ndim >= 2 and "pad_token" not in name and not name.endswith("lin"):
            values *= 0.9 / weight[0].numel() ** 0.5
        elif "norm" in known and known.endswith("weight"):
            values = 1 + 0.1 * values
        else:
            values *= 0.1
        weight.copy_(values)


def dit_text(name: str, seed: int, tokens: int = 9) -> torch.Tensor:
    """(1, tokens, width): an encoded prompt that nobody wrote."""
    generator = torch.Generator().manual_seed(1000 + seed)
    return torch.randn(1, tokens, TINY[name].width, generator=generator)


def dit_conditioning(name: str, seed: int, tokens: int = 9) -> list:
    """The same as a CONDITIONING."""
    return conditioning_of(name, dit_text(name, seed, tokens))


def conditioning_of(name: str, text: torch.Tensor) -> list:
    return [[text, dict(TINY[name].extras)]]


def dit_latent(name: str, size=(16, 16), batch: int = 1) -> torch.Tensor:
    """An empty latent of (rows, columns) cells."""
    time = (1,) if TINY[name].time else ()
    return torch.zeros(batch, TINY[name].channels, *time, *size)


def draw_dit(model, name, positive, negative, size=(16, 16), batch=1, steps=2, cfg=2.0, seed=0):
    """The latent that the stock KSampler returns."""
    import nodes

    latent = {"samples": dit_latent(name, size, batch)}
    (result,) = nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "simple", positive, negative, latent
    )
    return result["samples"]
