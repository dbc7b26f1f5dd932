"""Tiny text encoders of diffusion transformers: ComfyUI's own classes with random weights."""

import comfy.sd
import comfy.text_encoders.flux
import comfy.text_encoders.qwen_image
import comfy.text_encoders.z_image
import torch

from .dit_models import fill
from .tiny_models import CPU

CLIP_L = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_act": "quick_gelu",
}


def build_clip(kind, tokenizer, **configs):
    """configs: "<encoder>_model_config" -> what differs from the full size."""

    class Target:
        params: dict = {}  # noqa: RUF012

    Target.clip, Target.tokenizer = kind, tokenizer
    options = {"dtype": torch.float32, "load_device": CPU, "offload_device": CPU, **configs}
    clip = comfy.sd.CLIP(Target, model_options=options)
    fill(clip.cond_stage_model, 0)
    return clip


def flux_clip():
    """T5 and CLIP-L; texts of 24, pooled ones of 20, as the tiny Flux.1 reads them."""
    t5 = {"d_model": 24, "d_kv": 8, "num_heads": 4, "num_layers": 2, "d_ff": 32}
    return build_clip(
        comfy.text_encoders.flux.flux_clip(dtype_t5=torch.float32),
        comfy.text_encoders.flux.FluxTokenizer,
        clip_l_model_config={**CLIP_L, "hidden_size": 20},
        t5xxl_model_config=t5,
    )


def z_image_clip():
    """Qwen3; texts of 24, as the tiny Z-Image reads them."""
    qwen = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return build_clip(
        comfy.text_encoders.z_image.te(dtype_llama=torch.float32),
        comfy.text_encoders.z_image.ZImageTokenizer,
        qwen3_4b_model_config=qwen,
    )


def qwen_image_clip():
    """Qwen2.5-VL; texts of 24, as the tiny Qwen-Image reads them, without the template's begin."""
    qwen = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    return build_clip(
        comfy.text_encoders.qwen_image.te(dtype_llama=torch.float32),
        comfy.text_encoders.qwen_image.QwenImageTokenizer,
        qwen25_7b_model_config=qwen,
    )


CLIPS = {"flux": flux_clip, "z_image": z_image_clip, "qwen_image": qwen_image_clip}
