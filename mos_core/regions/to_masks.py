"""Regions handed on: as masks, bounding boxes, names, and crops of a picture."""

from typing import Any

import torch
import torch.nn.functional as F

from .picture import PAPER, cover
from .region import Region, Regions

EDGE = 0.5  # of a mask's largest value; what is at least that bright counts for its box


def region_masks(regions: Regions, width: int, height: int) -> torch.Tensor:
    """(regions, height, width) float32 in 0..1, in order: what of each pixel belongs to a region.

    Soft masks stay soft; what regions in front take is missing; weights do not count.
    """
    if not regions.regions:
        return torch.zeros(0, height, width)
    return torch.stack([cover(region, (height, width)) for region in regions.regions]).clamp(0, 1)


def label_of(region: Region) -> str:
    """What other nodes call the region: its concept, else its prompt, shortened."""
    return region.concept or region.name


def bounds_of(mask: torch.Tensor) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 in pixels around what is white of a mask (height, width); None: nothing is."""
    if mask.numel() == 0 or mask.max() <= 0:
        return None
    rows, columns = (mask >= EDGE * mask.max()).nonzero(as_tuple=True)
    return (
        int(columns.min()),
        int(rows.min()),
        int(columns.max()) + 1,
        int(rows.max()) + 1,
    )


def region_boxes(regions: Regions, masks: torch.Tensor) -> list[dict[str, Any]]:
    """ComfyUI's bounding boxes in pixels of the masks (regions, height, width), with the label.

    A region of which nothing is left has a box without size, so that the order stays.
    """
    boxes = []
    for region, mask in zip(regions.regions, masks, strict=True):
        x0, y0, x1, y1 = bounds_of(mask) or (0, 0, 0, 0)
        box = {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0}
        boxes.append({**box, "label": label_of(region)})
    return boxes


def widen(
    box: tuple[int, int, int, int], factor: float, width: int, height: int
) -> tuple[int, int, int, int]:
    """The box `factor` times as wide and high around the same middle, inside the picture."""
    x0, y0, x1, y1 = box
    across, down = (x1 - x0) * (factor - 1) / 2, (y1 - y0) * (factor - 1) / 2
    return (
        max(0, round(x0 - across)),
        max(0, round(y0 - down)),
        min(width, round(x1 + across)),
        min(height, round(y1 + down)),
    )


def crop_regions(
    image: torch.Tensor, masks: torch.Tensor, factor: float, side: int
) -> torch.Tensor:
    """(regions, side, side, 3): the first picture of `image` (batch, height, width, channels), cut
    out around each mask (regions, height, width) and fitted into a square; grey where nothing is.
    """
    height, width = masks.shape[-2:]
    picture = image[0, ..., :3].float().cpu().movedim(-1, 0)
    crops = torch.full((max(1, len(masks)), side, side, 3), PAPER)
    for crop, mask in zip(crops, masks, strict=False):
        box = bounds_of(mask)
        if box is None:
            continue
        x0, y0, x1, y1 = widen(box, factor, width, height)
        fit = side / max(x1 - x0, y1 - y0)
        size = (max(1, round((y1 - y0) * fit)), max(1, round((x1 - x0) * fit)))
        part = F.interpolate(
            picture[None, :, y0:y1, x0:x1], size, mode="bicubic", antialias=True
        ).clamp(0, 1)
        top, left = (side - size[0]) // 2, (side - size[1]) // 2
        crop[top : top + size[0], left : left + size[1]] = part[0].movedim(0, -1)
    return crops
