"""Models with random weights, built from ComfyUI's own classes, for benchmarks."""

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models
import torch

from mix_of_show.mos_core.patch.host.miniature import SD15_TOPOLOGY

SD15_UNET = {
    **SD15_TOPOLOGY,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 768,
}


BLOCK = 4_194_301  # a prime: no row of a weight comes again


def fill_randomly(module: torch.nn.Module, seed: int) -> None:
    """Small normal weights: big enough to work with, small enough to stay finite. One block of
    random numbers again and again: billions of new ones take a minute."""
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(seed))
    at = 0
    for name, weight in module.named_parameters():
        norm = name.endswith("weight") and weight.ndim == 1
        fan = max(weight[0].numel(), 1) if weight.ndim > 1 else 1
        values, done = weight.data.view(-1), 0
        while done < len(values):
            part = block[at : at + len(values) - done]
            values[done : done + len(part)].copy_(part)
            done, at = done + len(part), (at + len(part)) % BLOCK
        weight.data.mul_(0 if norm else 0.5 * fan**-0.5).add_(1 if norm else 0)


def random_sd15(channels: int = 320, text_width: int = 768, dtype=torch.float32):
    """A ModelPatcher with SD1.5's UNet, `channels` wide (320 is the full size)."""
    device = comfy.model_management.get_torch_device()
    config = comfy.supported_models.SD15(
        {**SD15_UNET, "model_channels": channels, "context_dim": text_width}
    )
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device="cpu")
    fill_randomly(model.diffusion_model, 0)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


class _Target:
    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params: dict = {}  # noqa: RUF012


def random_clip(dtype=torch.float32):
    """A comfy.sd.CLIP with CLIP-L's size."""
    clip = comfy.sd.CLIP(_Target, model_options={"dtype": dtype})
    fill_randomly(clip.cond_stage_model.clip_l, 1)
    return clip


SDXL_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
}


def random_sdxl(channels: int = 320, dtype=torch.float32):
    """A ModelPatcher with SDXL's UNet, `channels` wide (320 is the full size)."""
    device = comfy.model_management.get_torch_device()
    config = comfy.supported_models.SDXL({**SDXL_UNET, "model_channels": channels})
    if channels < 64:  # ComfyUI's class asks for heads of 64 channels
        config.unet_config = {**config.unet_config, "num_head_channels": 16, "num_heads": -1}
    config.set_inference_dtype(dtype, None)
    model = config.get_model({}, "", device="cpu")
    fill_randomly(model.diffusion_model, 0)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)


class _TargetXL:
    clip = comfy.sdxl_clip.SDXLClipModel
    tokenizer = comfy.sdxl_clip.SDXLTokenizer
    params: dict = {}  # noqa: RUF012


def random_sdxl_clip(layers: int | None = None, dtype=torch.float32):
    """A comfy.sd.CLIP with SDXL's two encoders at their widths. layers: of each, None: all."""
    options: dict = {"dtype": dtype}
    if layers is not None:
        for name, width, heads in (("clip_l", 768, 12), ("clip_g", 1280, 20)):
            options[f"{name}_model_config"] = {
                "hidden_size": width,
                "intermediate_size": 4 * width,
                "num_hidden_layers": layers,
                "num_attention_heads": heads,
                "projection_dim": width,
                "hidden_act": "quick_gelu" if name == "clip_l" else "gelu",
            }
    clip = comfy.sd.CLIP(_TargetXL, model_options=options)
    fill_randomly(clip.cond_stage_model, 1)
    return clip


TRANSFORMERS = {
    "flux": (
        "Flux",
        {
            "image_model": "flux",
            "in_channels": 16,
            "out_channels": 16,
            "vec_in_dim": 768,
            "context_in_dim": 4096,
            "hidden_size": 3072,
            "mlp_ratio": 4.0,
            "num_heads": 24,
            "depth": 1,
            "depth_single_blocks": 1,
            "axes_dim": [16, 56, 56],
            "theta": 10000,
            "patch_size": 2,
            "qkv_bias": True,
            "guidance_embed": True,
        },
    ),
    "z_image": (
        "ZImage",
        {
            "image_model": "lumina2",
            "patch_size": 2,
            "in_channels": 16,
            "dim": 3840,
            "n_layers": 1,
            "n_refiner_layers": 1,
            "n_heads": 30,
            "n_kv_heads": 30,
            "axes_dims": [32, 48, 48],
            "axes_lens": [1536, 512, 512],
            "ffn_dim_multiplier": 8 / 3,
            "qk_norm": True,
            "cap_feat_dim": 2560,
            "rope_theta": 256.0,
            "z_image_modulation": True,
            "pad_tokens_multiple": 32,
            "time_scale": 1000.0,
        },
    ),
    "qwen_image": (
        "QwenImage",
        {
            "image_model": "qwen_image",
            "patch_size": 2,
            "in_channels": 64,
            "out_channels": 16,
            "num_layers": 1,
            "attention_head_dim": 128,
            "num_attention_heads": 24,
            "joint_attention_dim": 3584,
            "axes_dims_rope": (16, 56, 56),
        },
    ),
}


def random_transformer(family: str, dtype=torch.float32, **changes):
    """A ModelPatcher with one block of each kind of a diffusion transformer, at its full width.
    changes: of its configuration."""
    kind, config = TRANSFORMERS[family]
    config = {**config, **changes}
    if family == "flux" and hasattr(comfy.supported_models, "Krea2"):  # since then it wants this
        config = {**config, "txt_ids_dims": []}
    device = comfy.model_management.get_torch_device()
    made = getattr(comfy.supported_models, kind)(dict(config))
    made.set_inference_dtype(dtype, None)
    model = made.get_model({}, "", device="cpu")
    fill_randomly(model.diffusion_model, 0)
    offload = comfy.model_management.unet_offload_device()
    return comfy.model_patcher.ModelPatcher(model, load_device=device, offload_device=offload)
