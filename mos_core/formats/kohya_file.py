"""An ordinary LoRA file, as ComfyUI's own Load LoRA and other programs read it.

`lora_te_<module>` and `lora_unet_<module>`, diffusers names with dots as underscores, each with
`.lora_down.weight`, `.lora_up.weight` and `.alpha`. Such files scale by alpha / rank; alpha is the
rank here, so that the factors count as they are.
"""

from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch

from ..adapters import DOWN, UP
from ..errors import SaveError
from ..records import LowRank
from .saving import save_numbered
from .tensor_file import own

SECOND, MODEL = "clip_g.transformer.", "diffusion_model."  # ComfyUI's names in a fusion


def save_kohya(
    folder: Path,
    prefix: str,
    text: Mapping[str, LowRank],
    unet: Mapping[str, LowRank],
    metadata: Mapping[str, str],
) -> Path:
    """Writes `<folder>/<prefix>_00001_.safetensors`, the next free number. Raises SaveError."""
    tensors = {}
    two = any(module.startswith(SECOND) for module in text)
    for start, factors in (("lora_te1_" if two else "lora_te_", text), ("lora_unet_", unet)):
        for module, pair in factors.items():
            name = name_of(start, module)
            tensors[name + DOWN], tensors[name + UP] = own(pair.down), own(pair.up)
            tensors[name + ".alpha"] = torch.tensor(float(pair.rank))
    return save_numbered(
        folder,
        prefix,
        ".safetensors",
        lambda path: safetensors.torch.save_file(tensors, path, dict(metadata)),
    )


def name_of(start: str, module: str) -> str:
    """'clip_g.transformer.text_model.x' -> 'lora_te2_text_model_x'; 'mid_block.x' ->
    'lora_unet_mid_block_x'. Raises SaveError for a part of a weight, which has no name."""
    if module.endswith("]"):
        raise SaveError(
            f"this fusion changes a part of a weight ('{module}'), which an ordinary LoRA cannot "
            "hold; use Save Fused Concepts"
        )
    if module.startswith(SECOND):
        start, module = "lora_te2_", module.removeprefix(SECOND)
    return start + module.removeprefix(MODEL).replace(".", "_")
