"""A region for each person of a pose: POSE_KEYPOINT, OpenPose's layout as ControlNet's
preprocessors and ComfyUI's own pose nodes give it.

A list with an entry per picture: {"people": [{"pose_keypoints_2d": [x, y, confidence, ...], ...}],
"canvas_width", "canvas_height"}; coordinates in pixels of the canvas, or in 0..1.
"""

import json
import math
from typing import Any

from ..errors import RegionError
from .found import Found, add_found
from .region import Box, Regions

PARTS = (
    "pose_keypoints_2d",
    "face_keypoints_2d",
    "hand_left_keypoints_2d",
    "hand_right_keypoints_2d",
)
FRACTIONS = 2.0  # coordinates up to here are no pixels but fractions, some outside the picture
SMALLEST = 0.05  # width of a box, fraction of the canvas: a pose seen from the side is a line

WHAT_THEY_ARE = 'Poses are [{"people": [...], "canvas_width", "canvas_height"}]'


def add_poses(
    poses: Any,
    prompts: str,
    margin: float = 0.15,
    order: str = "left to right",
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each person of the first picture.

    margin: how much larger than the keypoints the box is on each side, fraction of its longer side
    (keypoints lie inside the body). prompts, order: as `add_found`. Raises RegionError.
    """
    picture, notes = _first_picture(poses)
    width, height = (_size(picture, side) for side in ("canvas_width", "canvas_height"))
    found = []
    for person in picture["people"]:
        box = _box(_points(person, width, height), margin, width, height)
        if box is not None:
            found.append(Found("person", box=box))
    if len(found) < len(picture["people"]):
        notes.append(f"{len(picture['people']) - len(found)} poses lie outside the picture.")
    regions = add_found(found, "poses", prompts, (width, height), order, negative, weight, before)
    return Regions(regions.width, regions.height, regions.regions, (*regions.notes, *notes))


def _first_picture(poses: Any) -> tuple[dict, list[str]]:
    if isinstance(poses, str):
        try:
            poses = json.loads(poses)
        except ValueError as error:
            raise RegionError(f"The poses cannot be read: {error}. {WHAT_THEY_ARE}.") from None
    notes = []
    if isinstance(poses, list) and poses:
        if len(poses) > 1:
            notes.append(f"There are poses for {len(poses)} pictures; those of the first are used.")
        poses = poses[0]
    if not isinstance(poses, dict) or not isinstance(poses.get("people"), list):
        raise RegionError(f"These are no poses: {repr(poses)[:80]}. {WHAT_THEY_ARE}.")
    return poses, notes


def _size(picture: dict, side: str) -> int:
    value = picture.get(side)
    if not isinstance(value, int | float) or isinstance(value, bool) or value < 1:
        raise RegionError(f"The poses need a {side} in pixels; found: {value!r}. {WHAT_THEY_ARE}.")
    return round(value)


def _points(person: Any, width: int, height: int) -> list[tuple[float, float]]:
    """The keypoints that were seen, in pixels."""
    points = []
    for part in PARTS:
        values = (person.get(part) if isinstance(person, dict) else None) or []
        for x, y, seen in zip(values[::3], values[1::3], values[2::3], strict=False):
            if seen > 0 and math.isfinite(x) and math.isfinite(y) and (x, y) != (0, 0):
                points.append((float(x), float(y)))
    if points and max(max(point) for point in points) <= FRACTIONS:
        points = [(x * width, y * height) for x, y in points]
    return points


def _box(points, margin: float, width: int, height: int) -> Box | None:
    if not points:
        return None
    xs, ys = zip(*points, strict=True)
    more = margin * max(max(xs) - min(xs), max(ys) - min(ys))
    x0, x1 = _interval(min(xs) - more, max(xs) + more, width)
    y0, y1 = _interval(min(ys) - more, max(ys) + more, height)
    return Box(x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def _interval(start: float, end: float, size: int) -> tuple[float, float]:
    """Start and end as fractions inside the canvas, at least SMALLEST apart."""
    middle, half = (start + end) / 2 / size, max((end - start) / 2 / size, SMALLEST / 2)
    return max(0.0, middle - half), min(1.0, middle + half)
