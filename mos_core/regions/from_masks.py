"""A region from a mask of any size."""

import torch

from ..errors import RegionError
from .region import Region, Regions


def add_mask(
    mask: torch.Tensor,
    prompt: str,
    negative: str = "",
    weight: float = 1.0,
    concept: str | None = None,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region more; without `before` the canvas is as large as the mask.

    mask: (height, width) or (batch, height, width), values in 0..1 over the whole canvas; the masks
    of a batch are joined (the largest value of each pixel counts). A mask that is larger or smaller
    than the canvas covers all of it. Raises RegionError for a mask that is empty, has no finite
    values or is no mask.
    """
    region = Region(prompt, negative, weight, (concept or "").strip() or None, mask=mask)
    mask = check_mask(mask, region.name)
    height, width = mask.shape
    canvas = before or Regions(width, height)
    notes = canvas.notes
    if (width, height) != (canvas.width, canvas.height):
        done = "scaled" if width * canvas.height == height * canvas.width else "stretched"
        notes += (
            f"The mask of the region '{region.name}' is {width} x {height} pixels and was "
            f"{done} to the canvas of {canvas.width} x {canvas.height}.",
        )
    region = Region(prompt, negative, weight, region.concept, mask=mask)
    return Regions(canvas.width, canvas.height, (*canvas.regions, region), notes)


def check_mask(mask: torch.Tensor, name: str) -> torch.Tensor:
    """(height, width) float32 on the CPU in 0..1. Raises RegionError, naming the region."""
    if mask.ndim == 2:
        mask = mask[None]
    if mask.ndim != 3 or 0 in mask.shape:
        raise RegionError(
            f"The mask of the region '{name}' has the shape {tuple(mask.shape)}, not "
            "(batch, height, width)."
        )
    mask = mask.detach().float().cpu().amax(0)  # (height, width)
    if not torch.isfinite(mask).all():
        raise RegionError(f"The mask of the region '{name}' has values that are no numbers.")
    if mask.max() <= 0:
        raise RegionError(
            f"The mask of the region '{name}' is empty: all of it is black. Paint the region "
            "white, invert the mask, or remove it."
        )
    return mask.clamp(0.0, 1.0)
