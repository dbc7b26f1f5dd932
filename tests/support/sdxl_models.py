"""Tiny models with SDXL's topology: ComfyUI's own classes, random weights, fp32, on the CPU."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.sd
import comfy.sdxl_clip
import comfy.supported_models
import torch

from .tiny_models import CPU, patcher_of

L_WIDTH, G_WIDTH = 32, 48
TEXT_WIDTH = L_WIDTH + G_WIDTH
UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 1, 1],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": TEXT_WIDTH,
    "use_linear_in_transformer": True,
    "adm_in_channels": G_WIDTH + 1536,
    "num_classes": "sequential",
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
}
ENCODERS = {
    "clip_l_model_config": {
        "hidden_size": L_WIDTH,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": L_WIDTH,
    },
    "clip_g_model_config": {
        "hidden_size": G_WIDTH,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "projection_dim": G_WIDTH,
    },
}


class Target:
    """What comfy.sd.CLIP is built from."""

    clip = comfy.sdxl_clip.SDXLClipModel
    tokenizer = comfy.sdxl_clip.SDXLTokenizer
    params: dict = {}  # noqa: RUF012


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Random weights, each tensor from its own key, so that another order gives the same."""
    for key, tensor in module.state_dict().items():
        generator = torch.Generator().manual_seed(hash_of(key) + seed)
        if not tensor.is_floating_point():
            continue
        if tensor.ndim > 1:
            values = torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5
        elif key.endswith("weight"):
            values = 1 + 0.1 * torch.randn(tensor.shape, generator=generator)
        else:
            values = 0.1 * torch.randn(tensor.shape, generator=generator)
        tensor.copy_(values.to(tensor.dtype))


def hash_of(key: str) -> int:
    """The same on every machine and in every run."""
    return sum(ord(c) * 31**i for i, c in enumerate(reversed(key))) % 2**31


def tiny_sdxl(dtype=torch.float32, manual_cast=None, sampling=None, **changes):
    """A ModelPatcher of all 70 layers, 2.4 million weights. sampling: "v_prediction" or None."""
    config = comfy.supported_models.SDXL({**UNET, **changes})
    config.unet_config = {**config.unet_config, "num_head_channels": 16, "num_heads": -1}
    config.set_inference_dtype(dtype, manual_cast)
    model = config.get_model({"v_pred": torch.zeros(0)} if sampling else {}, "", device="cpu")
    fill(model.diffusion_model)
    return patcher_of(model)


def tiny_sdxl_clip(dtype=torch.float32):
    """The two text encoders as ComfyUI's CLIP."""
    options = {**ENCODERS, "dtype": dtype, "load_device": CPU, "offload_device": CPU}
    clip = comfy.sd.CLIP(Target, model_options=options)
    clip.tokenizer.clip_l.embedding_size = L_WIDTH
    clip.tokenizer.clip_g.embedding_size = G_WIDTH
    fill(clip.cond_stage_model)
    return clip


def tiny_sdxl_controlnet():
    """ComfyUI's own ControlNet for the tiny UNet: it reads the text, the pooled text and sizes."""
    config = {
        k: v for k, v in UNET.items() if k not in ("out_channels", "transformer_depth_output")
    }
    model = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, num_head_channels=16, device="cpu"
    )
    fill(model)
    return comfy.controlnet.ControlNet(model, load_device=CPU)
