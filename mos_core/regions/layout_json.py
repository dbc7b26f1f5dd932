"""The layout's JSON, as the Region Layout node saves it and API clients write it.

{"version": 2, "canvas": [512, 512], "regions": [{"x": 32, "y": 0, "width": 200, "height": 480,
 "prompt": "a <wizard>", "negative": "", "weight": 1.0, "concept": null, "color": 0}]}

Pixels of the canvas. Of a region only x, y, width and height must be there, or a mask. Optional:
`canvas`, the size in which the regions are drawn (where it differs from the node's width and
height, they are scaled), and of a region

* `mask`: its shape in place of the box, as in mask_runs.py. x, y, width and height then only say
  where it lies;
* `depth`: where regions overlap, the larger depth is in front; null: as 0, and equals share;
* `strength`: of the concept's LoRA in the region; 1 as it was loaded;
* `reference`: name of a picture, for models that edit pictures;
* `hidden`: true leaves the region out;
* `locked`, `color`: of the editor alone.

Version 1 has boxes only. Unknown keys are left alone.
"""

import json
import math
from typing import Any

from ..errors import RegionError
from .from_masks import check_mask
from .mask_runs import describe_mask, read_mask, write_mask
from .region import NAME_LENGTH, Box, Region, Regions

VERSION = 2
FINEST_CELL = 8  # pixels of a cell of the finest feature map: the latent's (Stable Diffusion)
EMPTY_LAYOUT = '{"version": 1, "regions": []}'

WHAT_IT_IS = 'The layout is JSON: {"version": 2, "regions": [{"x", "y", "width", "height", ...}]}'
SIDES = ("x", "y", "width", "height")


def parse_layout(text: str, width: int, height: int) -> Regions:
    """The regions of a layout on a canvas of `width` x `height` pixels.

    Boxes that reach over the canvas are clipped, masks of another shape stretched, hidden regions
    left out, each with a note. Blank text is a layout without regions. Raises RegionError, naming
    the region by its prompt: no JSON, a newer version, a missing or wrong value, a box without
    size, outside the canvas, or without a whole cell of the finest feature map, an empty mask.
    """
    if width < 1 or height < 1:
        raise RegionError(f"The canvas is {width} x {height} pixels. Give it a width and height.")
    layout = _read(text)
    scale, notes = _scale(layout, width, height)
    regions = []
    for number, entry in enumerate(layout["regions"], start=1):
        name = _name(entry, number)
        if entry.get("hidden") is True:
            notes.append(f"The region '{name}' is hidden and was left out.")
            continue
        region, note = _region(entry, name, width, height, scale)
        regions.append(region)
        notes += [note] if note else []
    drawn = Regions(width, height, tuple(regions))
    return Regions(width, height, drawn.regions, (*notes, *_covered(drawn)))


def format_layout(regions: Regions) -> str:
    """The JSON of `regions`, the inverse of `parse_layout`. Masks become black and white."""
    entries = []
    for region in regions.regions:
        entry = {
            **_sides(region, regions.width, regions.height),
            "prompt": region.prompt,
            "negative": region.negative,
            "weight": region.weight,
            "concept": region.concept,
        }
        optional = {
            "color": region.color,
            "depth": region.depth,
            "strength": None if region.strength == 1 else region.strength,
            "reference": region.reference,
            "mask": None
            if region.mask is None
            else write_mask(region.mask, regions.width, regions.height),
        }
        entries.append({**entry, **{k: v for k, v in optional.items() if v is not None}})
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
            f"The layout is of version {version}; this pack reads versions up to {VERSION}. Update "
            "the pack."
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


def _name(entry: Any, number: int) -> str:
    """How messages call a region. Raises RegionError for what is no region at all."""
    if not isinstance(entry, dict):
        raise RegionError(
            f"Region {number} of the layout is {entry!r}, not an object. {WHAT_IT_IS}."
        )
    prompt = _text(entry, "prompt", f"{number}")
    return Region(prompt).name if prompt.strip() else f"{number} (without a prompt)"


def _region(
    entry: dict[str, Any], name: str, width: int, height: int, scale: tuple[float, float]
) -> tuple[Region, str | None]:
    box, mask = None, None
    if entry.get("mask") is not None:
        mask = check_mask(read_mask(entry["mask"], name), name)
        note = describe_mask(mask, name, width, height)
    else:
        across, down = scale
        x, y, w, h = (read_number(entry, side, name) for side in SIDES)
        box, note = place_box((x * across, y * down, w * across, h * down), name, width, height)
    color = entry.get("color")
    region = Region(
        _text(entry, "prompt", name),
        _text(entry, "negative", name),
        _not_negative(entry, "weight", name),
        _text(entry, "concept", name).strip() or None,
        box,
        mask,
        color if isinstance(color, int) else None,
        None if entry.get("depth") is None else read_number(entry, "depth", name),
        _not_negative(entry, "strength", name),
        _text(entry, "reference", name).strip() or None,
    )
    return region, note


def _covered(drawn: Regions) -> list[str]:
    """A note for each region of which those in front leave nothing."""
    rows, columns = max(1, drawn.height // FINEST_CELL), max(1, drawn.width // FINEST_CELL)
    return [
        f"The region '{region.name}' lies wholly behind others and has no effect. Bring it to the "
        "front, or move it."
        for region in drawn.regions
        if region.in_front and region.weight > 0 and region.weights(rows, columns).max() <= 0
    ]


def _sides(region: Region, width: int, height: int) -> dict[str, float]:
    """x, y, width, height in pixels: of a mask, of the box around what is white."""
    if region.box is not None:
        box = region.box
    else:
        assert region.mask is not None
        rows, columns = region.mask.shape
        down, across = (region.mask >= 0.5 * region.mask.max()).nonzero(as_tuple=True)
        box = Box(
            int(across.min()) / columns,
            int(down.min()) / rows,
            (int(across.max()) + 1) / columns,
            (int(down.max()) + 1) / rows,
        )
    sides = (box.x0 * width, box.y0 * height, (box.x1 - box.x0) * width, (box.y1 - box.y0) * height)
    return dict(zip(SIDES, map(_whole, sides), strict=True))


def _not_negative(entry: dict[str, Any], key: str, name: str) -> float:
    value = read_number(entry, key, name, 1.0)
    if value < 0:
        raise RegionError(
            f"The region '{name}' has the {key} {value:g}. {key.capitalize()}s are 0 or more."
        )
    return value


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
