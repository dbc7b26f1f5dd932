"""Where the sums of a fusion live: beside the model, or on the CPU when the device is short."""

import logging
from collections.abc import Iterable, Mapping

import comfy.model_management as management
import torch

from ...fuse.stage import input_group

TOTAL = torch.float64  # of what is summed over the concepts


def sums_bytes(modules: Iterable[str], shapes: Mapping[str, tuple], dtype: torch.dtype) -> int:
    """Bytes of a stage's sums while one concept is collected. shapes: module -> (out, in, ...)."""
    widths = {input_group(module): shapes[module][1] for module in modules}
    grams = sum(width**2 for width in widths.values()) * (TOTAL.itemsize + dtype.itemsize)
    cross = sum(shapes[module][0] * shapes[module][1] for module in modules) * TOTAL.itemsize
    return grams + cross


def place_of_sums(model, needed: int) -> torch.device | None:
    """None: the rows' own device; the CPU if `needed` bytes do not fit beside the model."""
    device = model.load_device
    if management.is_device_cpu(device):
        return None
    missing = max(model.model_size() - model.loaded_size(), 0)
    room = management.get_free_memory(device) - missing - management.minimum_inference_memory()
    if needed <= room:
        return None
    logging.info("Fuse Concepts keeps its sums (%d MiB) on the CPU", needed // 2**20)
    return torch.device("cpu")


def dtype_of_sums(model) -> torch.dtype:
    """float64; float32 for the many rows of the UNet on a GPU, where float64 is slow."""
    return torch.float64 if management.is_device_cpu(model.load_device) else torch.float32
