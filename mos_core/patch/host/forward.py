"""A model made ready for a forward pass with gradients."""

import comfy.ldm.modules.attention
import torch

from ...errors import MosError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def clone_for_gradients(patcher):
    """A clone whose weights stay put for the backward pass (newer ComfyUI streams them)."""
    try:
        return patcher.clone(disable_dynamic=True)
    except TypeError:
        return patcher.clone()


def plain_attention(func, *args, **kwargs):
    """PyTorch's own attention: the faster kernels have no backward."""
    return comfy.ldm.modules.attention.attention_pytorch(*args, **kwargs)


def choose_dtype(model, choice: str) -> torch.dtype:
    """The compute dtype: "auto" is the model's own. Raises MosError for an unknown name."""
    if choice == "auto":
        return getattr(model.model, "manual_cast_dtype", None) or model.model.get_dtype()
    if choice not in DTYPES:
        raise MosError(f"dtype is '{choice}'; choose one of auto, {', '.join(DTYPES)}")
    return DTYPES[choice]
