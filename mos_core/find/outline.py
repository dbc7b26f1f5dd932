"""From cells to masks: outlines grown, kept apart, softened; and places for what was not found."""

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

FINER = 4  # pixels of a mask along a side of a cell
SMALLEST_SIDE = 2  # cells
OVERLAP, ORDER, HEIGHT = 4.0, 1.0, 0.5  # what counts against a free place


def draw_outlines(
    things: Sequence[np.ndarray], shape: str, grow: float, feather: float
) -> list[torch.Tensor]:
    """A mask (rows * FINER, columns * FINER) float32 in 0..1 for each thing (rows, columns) bool.

    shape, grow, feather: as in FindSettings. Masks of different things do not overlap, but for
    their feathered edges and for boxes.
    """
    fine = [np.kron(thing, np.ones((FINER, FINER), dtype=bool)) for thing in things]
    fine = [_rounded(thing) for thing in fine]
    away = [ndimage.distance_transform_edt(~thing) for thing in fine]
    nearest = np.argmin(np.stack(away), 0) if away else np.zeros((0,))
    masks = []
    for number, thing in enumerate(fine):
        size = thing.sum() ** 0.5
        if shape == "box":
            mask = _box_around(thing, round(grow * size))
        else:
            reach = grow * size + (size if shape == "area" else 0)
            mask = (away[number] <= reach) & (nearest == number)
        soft = ndimage.gaussian_filter(mask.astype(np.float32), feather * FINER / 2, mode="nearest")
        masks.append(torch.from_numpy(soft))
    return masks


def _rounded(thing: np.ndarray) -> np.ndarray:
    """The steps of the cells smoothed away; a thing that would vanish stays."""
    smooth = ndimage.gaussian_filter(thing.astype(np.float32), FINER / 2) >= 0.5
    return smooth if smooth.any() else thing


def _box_around(thing: np.ndarray, more: int) -> np.ndarray:
    rows, columns = np.nonzero(thing)
    box = np.zeros_like(thing)
    box[
        max(0, rows.min() - more) : rows.max() + 1 + more,
        max(0, columns.min() - more) : columns.max() + 1 + more,
    ] = True
    return box


def free_place(taken: Sequence[np.ndarray], rank: float, rows: int, columns: int) -> np.ndarray:
    """(rows, columns) bool: a rectangle as large as the things usually are, where none is.

    taken: the things so far, (rows, columns) bool. rank: 0..1, how far along the words the concept
    is named; of places that are free alike, the one as far from the left, and at the others'
    height, is taken.
    """
    height, width, middle = _usual(taken, rows, columns)
    there = np.zeros((rows, columns))
    for thing in taken:
        there = np.maximum(there, ndimage.gaussian_filter(thing.astype(float), 0.5))
    total = np.pad(there.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best, place = np.inf, (0, 0)
    for top in range(rows - height + 1):
        for left in range(columns - width + 1):
            bottom, right = top + height, left + width
            covered = total[bottom, right] - total[top, right] - total[bottom, left]
            covered = (covered + total[top, left]) / (height * width)
            off = abs((left + width / 2) / columns - (0.1 + 0.8 * rank))
            high = abs((top + height / 2) / rows - middle)
            cost = OVERLAP * covered + ORDER * off + HEIGHT * high
            if cost < best:
                best, place = cost, (top, left)
    found: np.ndarray = np.zeros((rows, columns), dtype=bool)
    found[place[0] : place[0] + height, place[1] : place[1] + width] = True
    return found


def _usual(taken: Sequence[np.ndarray], rows: int, columns: int) -> tuple[int, int, float]:
    """Height and width of the things in cells, and how high they stand (0..1): medians."""
    if not taken:
        side = max(SMALLEST_SIDE, round(0.5 * min(rows, columns)))
        return side, side, 0.5
    boxes = [ndimage.find_objects(thing.astype(int))[0] for thing in taken]
    heights, widths = ([box[i].stop - box[i].start for box in boxes] for i in (0, 1))
    middles = [(box[0].start + box[0].stop) / 2 / rows for box in boxes]
    height = min(rows, max(SMALLEST_SIDE, round(float(np.median(heights)))))
    width = min(columns, max(SMALLEST_SIDE, round(float(np.median(widths)))))
    return height, width, float(np.median(middles))
