"""SD1.5-shaped models with random weights, built from ComfyUI's own classes, for benchmarks."""

import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import torch

from mix_of_show.mos_core.patch.host.miniature import SD15_TOPOLOGY

SD15_UNET = {
    **SD15_TOPOLOGY,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "context_dim": 768,
}


def fill_randomly(module: torch.nn.Module, seed: int) -> None:
    """Small normal weights: big enough to work with, small enough to stay finite."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        norm = name.endswith("weight") and weight.ndim == 1
        fan = max(weight[0].numel(), 1) if weight.ndim > 1 else 1
        values = torch.randn(weight.shape, generator=generator) * (0 if norm else 0.5 * fan**-0.5)
        weight.data.copy_(values + (1 if norm else 0))


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
