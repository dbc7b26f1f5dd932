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
from ..records import LowRank
from .saving import save_numbered
from .tensor_file import own


def save_kohya(
    folder: Path,
    prefix: str,
    text: Mapping[str, LowRank],
    unet: Mapping[str, LowRank],
    metadata: Mapping[str, str],
) -> Path:
    """Writes `<folder>/<prefix>_00001_.safetensors`, the next free number. Raises SaveError."""
    tensors = {}
    for start, factors in (("lora_te_", text), ("lora_unet_", unet)):
        for module, pair in factors.items():
            name = start + module.replace(".", "_")
            tensors[name + DOWN], tensors[name + UP] = own(pair.down), own(pair.up)
            tensors[name + ".alpha"] = torch.tensor(float(pair.rank))
    return save_numbered(
        folder,
        prefix,
        ".safetensors",
        lambda path: safetensors.torch.save_file(tensors, path, dict(metadata)),
    )
