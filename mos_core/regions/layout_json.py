"""The layout's JSON, as the Region Layout node saves it and API clients write it.

{"version": 1, "canvas": [512, 512], "regions": [{"x": 32, "y": 0, "width": 200, "height": 480,
 "prompt": "a <wizard>", "negative": "", "weight": 1.0, "concept": null, "color": 0}]}

Pixels of the canvas. Of a region only x, y, width and height must be there. Optional: `canvas`, the
size in which the boxes are drawn (where it differs from the node's width and height, the boxes are
scaled), and `color`, the number of the editor's colour. Unknown keys are left alone.
"""

import json
import math
from typing import Any

from ..errors import RegionError
from .region import NAME_LENGTH, Box, Region, Regions

VERSION = 1
FINEST_CELL = 8  # pixels of a cell of the finest feature map: the latent's (Stable Diffusion)
EMPTY_LAYOUT = '{"version": 1, "regions": []}'

WHAT_IT_IS = 'The layout is JSON: {"version": 1, "regions": [{"x", "y", "width", "height", ...}]}'
SIDES = ("x", "y", "width", "height")


def parse_layout(text: str, width: int, height: int) -> Regions:
    """The regions of a layout on a canvas of `width` x `height` pixels.

    Boxes that reach over the canvas are clipped, with a note. Blank text is a layout without boxes.
    Raises RegionError, naming the region by its prompt: no JSON, a newer version, a missing or
    wrong value, a box without size, outside the canvas, or without a whole cell of the finest
    feature map.
    """
    if width < 1 or height < 1:
        raise RegionError(f"The canvas is {width} x {height} pixels. Give it a width and height.")
    layout = _read(text)
    scale, notes = _scale(layout, width, height)
    regions = []
    for number, entry in enumerate(layout["regions"], start=1):
        region, note = _region(entry, number, width, height, scale)
        regions.append(region)
        notes += [note] if note else []
    return Regions(width, height, tuple(regions), tuple(notes))


def format_layout(regions: Regions) -> str:
    """The JSON of the boxes among `regions`, the inverse of `parse_layout`. Masks have none."""
    entries = [
        {
            "x": _whole(region.box.x0 * regions.width),
            "y": _whole(region.box.y0 * regions.height),
            "width": _whole((region.box.x1 - region.box.x0) * regions.width),
            "height": _whole((region.box.y1 - region.box.y0) * regions.height),
            "prompt": region.prompt,
            "negative": region.negative,
            "weight": region.weight,
            "concept": region.concept,
            **({} if region.color is None else {"color": region.color}),
        }
        for region in regions.regions
        if region.box is not None
    ]
    canvas = [regions.width, regions.height]
    return json.dumps({"version": VERSION, "canvas": canvas, "regions": entries})


def check_box(box: Box, name: str, width: int, height: int) -> None:
    """Raises RegionError where the box has no whole cell of the finest map of the canvas."""
    rows, columns = max(1, height // FINEST_CELL), max(1, width // FINEST_CELL)
    down, across = box.cells(rows, columns)
    if down.start < down.stop and across.start < across.stop:
        return
    w, h = (box.x1 - box.x0) * width, (box.y1 - box.y0) * height
    raise RegionError(
        f"The region '{name}' is {w:g} x {h:g} pixels: too small for every layer of the model. "
        f"The finest has cells of {FINEST_CELL} x {FINEST_CELL} pixels, and none lies wholly "
        f"inside the box. Make it at least {2 * FINEST_CELL} x {2 * FINEST_CELL}, or remove it."
    )


def place_box(
    sides: tuple[float, float, float, float], name: str, width: int, height: int
) -> tuple[Box, str | None]:
    """A box from (x, y, width, height) in pixels of the canvas, clipped to it, and a note if so.

    Raises RegionError for a box without size, outside the canvas or too small.
    """
    x, y, w, h = sides
    if w <= 0 or h <= 0:
        raise RegionError(
            f"The region '{name}' is {w:g} x {h:g} pixels. Give it a width and a height above 0, "
            "or remove it."
        )
    if x >= width or y >= height or x + w <= 0 or y + h <= 0:
        raise RegionError(
            f"The region '{name}' lies outside the canvas: x {x:g} to {x + w:g}, y {y:g} to "
            f"{y + h:g}, on {width} x {height} pixels. Move it inside, or remove it."
        )
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, width), min(y + h, height)
    box = Box(x0 / width, y0 / height, x1 / width, y1 / height)
    note = None
    if (x0, y0, x1, y1) != (x, y, x + w, y + h):
        note = (
            f"The region '{name}' reached over the edge of the canvas and was clipped to "
            f"x {x0:g} to {x1:g}, y {y0:g} to {y1:g}."
        )
    check_box(box, name, width, height)
    return box, note


def _read(text: str) -> dict[str, Any]:
    try:
        layout = json.loads(text) if text.strip() else json.loads(EMPTY_LAYOUT)
    except ValueError as error:
        raise RegionError(f"The layout cannot be read: {error}. {WHAT_IT_IS}.") from None
    if not isinstance(layout, dict) or not isinstance(layout.get("regions"), list):
        raise RegionError(f"The layout has no list of regions. {WHAT_IT_IS}.")
    version = layout.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RegionError(f"The layout's version is {version!r}, not a number. {WHAT_IT_IS}.")
    if version > VERSION:
        raise RegionError(
            f"The layout is of version {version}; this pack reads version {VERSION}. Update the "
            "pack."
        )
    return layout


def _scale(layout: dict[str, Any], width: int, height: int) -> tuple[tuple[float, float], list]:
    """Factors from the canvas that the boxes were drawn on to this one, and a note if not 1."""
    canvas = layout.get("canvas")
    if canvas is None or canvas == [width, height]:
        return (1.0, 1.0), []
    if not (isinstance(canvas, list) and len(canvas) == 2 and all(_is_size(n) for n in canvas)):
        raise RegionError(f"The layout's canvas is {canvas!r}, not a width and a height in pixels.")
    note = (
        f"The layout was drawn on {canvas[0]:g} x {canvas[1]:g} pixels and scaled to "
        f"{width} x {height}."
    )
    return (width / canvas[0], height / canvas[1]), [note]


def _region(
    entry: Any, number: int, width: int, height: int, scale: tuple[float, float]
) -> tuple[Region, str | None]:
    if not isinstance(entry, dict):
        raise RegionError(
            f"Region {number} of the layout is {entry!r}, not an object. {WHAT_IT_IS}."
        )
    prompt = _text(entry, "prompt", f"{number}")
    name = Region(prompt).name if prompt.strip() else f"{number} (without a prompt)"
    across, down = scale
    x, y, w, h = (read_number(entry, side, name) for side in SIDES)
    box, note = place_box((x * across, y * down, w * across, h * down), name, width, height)
    weight = read_number(entry, "weight", name, 1.0)
    if weight < 0:
        raise RegionError(f"The region '{name}' has the weight {weight:g}. Weights are 0 or more.")
    concept = _text(entry, "concept", name).strip() or None
    color = entry.get("color")
    color = color if isinstance(color, int) else None
    negative = _text(entry, "negative", name)
    return Region(prompt, negative, weight, concept, box, color=color), note


def read_number(entry: dict[str, Any], key: str, name: str, default: float | None = None) -> float:
    """A finite number of a region. Raises RegionError, naming the region and the key."""
    value = entry.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        found = repr(value)[:NAME_LENGTH] if key in entry else "missing"
        raise RegionError(f"The region '{name}' needs a number as its {key}; found: {found}.")
    return value


def _text(entry: dict[str, Any], key: str, name: str) -> str:
    value = entry.get(key)
    if value is not None and not isinstance(value, str):
        found = repr(value)[:NAME_LENGTH]
        raise RegionError(f"The region '{name}' needs a text as its {key}; found: {found}.")
    return value or ""


def _is_size(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _whole(value: float) -> float | int:
    """Pixels without the dust of the fractions: 32, not 31.999999999999996."""
    value = round(value, 6)
    return int(value) if value == int(value) else value
