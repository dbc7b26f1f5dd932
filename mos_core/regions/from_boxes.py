"""Regions from ComfyUI's own bounding boxes, or from JSON of the same form."""

import json
from typing import Any

from ..errors import RegionError
from .layout_json import SIDES, place_box, read_number
from .region import Region, Regions

WHAT_THEY_ARE = 'Boxes are {"x", "y", "width", "height"} in pixels, one or a list of them'


def add_boxes(
    boxes: Any,
    prompts: str,
    width: int,
    height: int,
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each box, on a canvas of `width` x `height` pixels.

    boxes: what travels on a BOUNDING_BOX wire (a box, a list of boxes, or a list of boxes for each
    picture of a batch, of which the first counts), or JSON of the same. prompts: one a line, in the
    order of the boxes; where there are none at all, a box's own `label` is its prompt. Boxes
    without a prompt are left out, with a note. Raises RegionError, naming the region by its prompt.
    """
    found, notes = _first_picture(_read(boxes))
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if len(lines) > len(found):
        raise RegionError(
            f"There are {len(lines)} prompts, but {len(found)} boxes. Write one line for each box."
        )
    if not lines:
        lines = [str(box.get("label") or "").strip() for box in found]
    regions = []
    for prompt, entry in zip(lines, found, strict=False):
        if not prompt:
            continue
        region = Region(prompt, negative, weight)
        x, y, w, h = (read_number(entry, side, region.name) for side in SIDES)
        box, note = place_box((x, y, w, h), region.name, width, height)
        notes += [note] if note else []
        regions.append(Region(prompt, negative, weight, box=box))
    if len(regions) < len(found):
        left_out = len(found) - len(regions)
        notes.append(f"{left_out} of {len(found)} boxes have no prompt and were left out.")
    return Regions(width, height, tuple(regions), tuple(notes)).after(before)


def _read(boxes: Any) -> Any:
    if not isinstance(boxes, str):
        return boxes
    try:
        return json.loads(boxes) if boxes.strip() else []
    except ValueError as error:
        raise RegionError(f"The boxes cannot be read: {error}. {WHAT_THEY_ARE}.") from None


def _first_picture(boxes: Any) -> tuple[list[dict[str, Any]], list[str]]:
    """The boxes of the first picture, and a note if there are more pictures."""
    if isinstance(boxes, dict):
        boxes = [boxes]
    notes = []
    if isinstance(boxes, list) and any(isinstance(entry, list) for entry in boxes):
        if len(boxes) > 1:
            notes.append(f"There are boxes for {len(boxes)} pictures; those of the first are used.")
        boxes = boxes[0]
    if not isinstance(boxes, list) or not all(isinstance(entry, dict) for entry in boxes):
        raise RegionError(f"These are no bounding boxes: {repr(boxes)[:80]}. {WHAT_THEY_ARE}.")
    return boxes, notes
