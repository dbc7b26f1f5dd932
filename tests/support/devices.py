"""The golden models on a device, in a type; and by how much a picture may differ there."""

import comfy.model_management
import comfy.model_patcher
import torch

from .tiny_models import CPU, golden_clip, golden_unet


def models_on(device: torch.device, dtype: torch.dtype, text_device: torch.device | None = None):
    """(MODEL, CLIP), loaded from the golden data: weights in `dtype`, run on `device`, the text
    encoder on `text_device` if that is another one."""
    unet, clip = golden_unet(dtype=dtype), golden_clip(dtype=dtype)
    model = comfy.model_patcher.ModelPatcher(unet.model, load_device=device, offload_device=CPU)
    free_everything()  # a CLIP made for the CPU is loaded there at once, and would stay
    clip.patcher.load_device = text_device or device
    return model, clip


def rounded_models(dtype: torch.dtype):
    """(MODEL, CLIP) in float32 on the CPU, their weights rounded to `dtype`."""
    unet, clip = golden_unet(), golden_clip()
    for module in (unet.model, clip.cond_stage_model):
        for weight in module.parameters():
            weight.data = weight.data.to(dtype).float()
    return unet, clip


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Relative, in the Euclidean norm."""
    found, expected = found.float().cpu(), expected.float().cpu()
    return ((found - expected).norm() / expected.norm()).item()


def free_everything() -> None:
    """Unloads what is loaded on the GPU, and what is loaded on the CPU beside it."""
    for device in {comfy.model_management.get_torch_device(), CPU}:
        comfy.model_management.free_memory(1e30, device)
    comfy.model_management.soft_empty_cache()
