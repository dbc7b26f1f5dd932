"""SEGS of the Impact Pack, read and written without that pack.

SEGS are `((height, width), [SEG, ...])`; a SEG is a named tuple with the fields below: crop_region
and bbox are x0, y0, x1, y1 in pixels, cropped_mask (rows, columns) covers the crop region.
"""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..errors import RegionError
from .found import Found, add_found
from .region import Box, Regions
from .to_masks import bounds_of, label_of, widen

Seg = namedtuple(
    "Seg",
    [
        "cropped_image",
        "cropped_mask",
        "confidence",
        "crop_region",
        "bbox",
        "label",
        "control_net_wrapper",
    ],
    defaults=[None],
)
SHAPES = ("masks", "boxes")

WHAT_THEY_ARE = "SEGS are ((height, width), [SEG, ...]), as the Impact Pack's detectors give them"


def write_segs(regions: Regions, masks: torch.Tensor, crop_factor: float) -> tuple:
    """SEGS of the masks (regions, height, width), in order. Empty masks are left out."""
    height, width = masks.shape[-2:]
    found = []
    for region, mask in zip(regions.regions, masks, strict=True):
        box = bounds_of(mask)
        if box is None:
            continue
        x0, y0, x1, y1 = crop = widen(box, crop_factor, width, height)
        part = mask[y0:y1, x0:x1].numpy().copy()
        found.append(Seg(None, part, 1.0, crop, box, label_of(region)))
    return (height, width), found


def add_segs(
    segs: Any,
    prompts: str,
    shape: str = "masks",
    order: str = "as they come",
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each SEG, its mask or its box (SHAPES).

    Without `before` the canvas is as large as the picture in which they were found. prompts and
    order: as `add_found`. Raises RegionError: no SEGS, a segment with neither mask nor box.
    """
    (height, width), entries = _read(segs)
    found = [_found(entry, n, shape, width, height) for n, entry in enumerate(entries, start=1)]
    return add_found(found, "segments", prompts, (width, height), order, negative, weight, before)


def _read(segs: Any) -> tuple[tuple[int, int], Sequence]:
    try:
        (height, width), entries = segs
        height, width, entries = int(height), int(width), list(entries)
    except (TypeError, ValueError):
        raise RegionError(f"These are no SEGS: {repr(segs)[:80]}. {WHAT_THEY_ARE}.") from None
    if height < 1 or width < 1:
        raise RegionError(f"The SEGS are of a picture of {width} x {height} pixels.")
    return (height, width), entries


def _found(entry: Any, number: int, shape: str, width: int, height: int) -> Found:
    label = str(getattr(entry, "label", "") or "")
    name = f"{number} ({label})" if label else f"{number}"
    crop = _corners(getattr(entry, "crop_region", None), width, height)
    box = _corners(getattr(entry, "bbox", None), width, height) or crop
    mask = getattr(entry, "cropped_mask", None)
    if shape == "masks" and mask is not None:
        return Found(label, mask=_whole_mask(mask, crop, name, width, height))
    if box is None:
        raise RegionError(
            f"Segment {name} has no box (bbox, crop_region) inside the picture of {width} x "
            f"{height} pixels, and no mask was asked for or there. {WHAT_THEY_ARE}."
        )
    x0, y0, x1, y1 = box
    return Found(label, box=Box(x0 / width, y0 / height, x1 / width, y1 / height))


def _corners(value: Any, width: int, height: int) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 inside the picture; None where there is nothing."""
    if value is None:
        return None
    try:
        x0, y0, x1, y1 = (round(float(v)) for v in value)
    except (TypeError, ValueError, OverflowError):
        return None
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _whole_mask(mask: Any, crop, name: str, width: int, height: int) -> torch.Tensor:
    """(height, width) from the mask of a crop; a mask without a crop covers the whole picture."""
    part = torch.as_tensor(np.asarray(mask)).float()
    part = part.reshape(-1, *part.shape[-2:]).amax(0) if part.ndim > 2 else part
    x0, y0, x1, y1 = crop or (0, 0, width, height)
    if part.ndim != 2 or tuple(part.shape) != (y1 - y0, x1 - x0):
        raise RegionError(
            f"The mask of segment {name} has the shape {tuple(part.shape)}, its crop of the "
            f"picture is {x1 - x0} wide and {y1 - y0} high. {WHAT_THEY_ARE}."
        )
    whole = torch.zeros(height, width)
    whole[y0:y1, x0:x1] = part / (255 if part.max() > 1 else 1)
    return whole
