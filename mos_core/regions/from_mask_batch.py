"""A region for each mask of a batch, as segmentation nodes (SAM and others) give them."""

import torch

from ..errors import RegionError
from .found import Found, add_found
from .region import Regions


def add_masks(
    masks: torch.Tensor,
    prompts: str,
    order: str = "as they come",
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each mask of a batch.

    masks: (batch, height, width) or (batch, 1, height, width), any number type, in 0..1. prompts
    and order: as `add_found`; masks have no names, so at least one line is needed. Without `before`
    the canvas is as large as the masks. Raises RegionError.
    """
    if masks.ndim == 4 and masks.shape[1] == 1:
        masks = masks[:, 0]
    if masks.ndim == 2:
        masks = masks[None]
    if masks.ndim != 3 or 0 in masks.shape[1:]:
        raise RegionError(f"The masks have the shape {tuple(masks.shape)}, not (batch, h, w).")
    if not prompts.strip():
        raise RegionError(
            f"There are {len(masks)} masks, but no prompts. Write one line for each, in their "
            "order; masks without a line are left out."
        )
    found = [Found(mask=mask.detach().float().cpu().clamp(0, 1)) for mask in masks]
    size = (masks.shape[2], masks.shape[1])
    return add_found(found, "masks", prompts, size, order, negative, weight, before)
