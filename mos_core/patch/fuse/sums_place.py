"""Where the sums of a fusion live, and in how many portions: beside the model if they fit."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

import comfy.model_management as management
import torch

from ...errors import FuseError
from ...fuse.stage import Layer, portions, sums_bytes
from ...fuse.sums import TOTAL

LOG = logging.getLogger(__name__)
GIB = 2**30
SHARE = 0.8  # of what is free that may be taken


def plan_sums(
    model: Any, layers: Sequence[Layer], limit_gib: float
) -> tuple[torch.device | None, list[list[Layer]]]:
    """(device, portions): None for the rows' own device; each portion costs a sampling more.

    limit_gib: what the sums may take at once, 0 for what is free.
    """
    if not layers:
        return None, []
    needed, limit = sums_bytes(layers), int(limit_gib * GIB)
    device = model.load_device
    on_cpu, cpu = management.is_device_cpu(device), torch.device("cpu")
    if not on_cpu and has_float64(device):
        room = room_beside(model)
        if needed <= room and (not limit or needed <= limit):
            return None, [list(layers)]
        if limit and limit <= room:
            return None, portions(layers, limit)
    free = int(management.get_free_memory(cpu) * SHARE)
    check_room(layers, free)
    made = portions(layers, min(limit, free) if limit else free)
    if not on_cpu:
        LOG.info("Fuse Concepts keeps its sums (%d MiB) on the CPU", needed // 2**20)
    return (None if on_cpu else cpu), made


def check_room(layers: Sequence[Layer], free: int) -> None:
    """Raises FuseError, before any work, if the sums of one input alone do not fit."""
    largest = max(portions(layers, 0), key=sums_bytes)
    needed = sums_bytes(largest)
    if needed > free:
        raise FuseError(
            f"the sums of '{largest[0].site.path}' alone take {needed / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} are free; close other programs, or switch 'convolutions' off if it "
            "is one"
        )


def place_of_few_sums(model: Any) -> torch.device | None:
    """For the text stages, whose sums are small: the CPU where the device has no float64."""
    device = model.load_device
    own = management.is_device_cpu(device) or has_float64(device)
    return None if own else torch.device("cpu")


def room_beside(model: Any) -> int:
    """Bytes on the model's device that are free beside it and what it needs to run."""
    missing = max(model.model_size() - model.loaded_size(), 0)
    free = management.get_free_memory(model.load_device)
    return free - missing - management.minimum_inference_memory()


@cache
def has_float64(device: torch.device) -> bool:
    """Whether a device can add in float64 (Apple's GPU and some others cannot)."""
    try:
        one = torch.ones(2, 2, dtype=TOTAL, device=device)
        return bool((one @ one + one).sum().item() == 12)
    except (TypeError, RuntimeError, NotImplementedError):
        return False


def dtype_of_products(model: Any) -> torch.dtype:
    """float64; float32 for the many rows of the model on a GPU, where float64 is slow."""
    return TOTAL if management.is_device_cpu(model.load_device) else torch.float32
