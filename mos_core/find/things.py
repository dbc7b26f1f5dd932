"""Things of a picture: connected parts of the foreground, split where several concepts touch."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.cluster.vq import kmeans2

SMALLEST = 0.004  # of the picture's cells; what is smaller is no thing
WORTH = 0.08  # a split must raise the assigned mass by this share of one concept's
EIGHT: np.ndarray = np.ones((3, 3), dtype=int)  # corners connect


def find_things(drawn: np.ndarray) -> list[np.ndarray]:
    """The connected parts of a foreground (rows, columns) bool, holes filled, the largest first."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(drawn), EIGHT)
    least = max(2, SMALLEST * drawn.size)
    things = [labels == number for number in range(1, count + 1)]
    return sorted((t for t in things if t.sum() >= least), key=lambda t: -t.sum())


@dataclass(frozen=True)
class Split:
    """A thing in two."""

    first: np.ndarray
    second: np.ndarray


def splits_of(thing: np.ndarray, masses: np.ndarray) -> list[Split]:
    """Ways to cut a thing (rows, columns) bool in two connected parts.

    masses: (concepts, rows, columns). Between each two concepts that share most of it, along where
    one overtakes the other; and across its longer side, by 2-means of the cells' places.
    """
    cells = np.argwhere(thing)
    if len(cells) < 4:
        return []
    found = []
    inside = (masses * thing).sum((1, 2))
    order = np.argsort(-inside)[:3]
    for i, a in enumerate(order):
        for b in order[i + 1 :]:
            if inside[b] > 0:
                more = ndimage.gaussian_filter(masses[a] / inside[a] - masses[b] / inside[b], 0.7)
                found.append(thing & (more > 0))
    found.append(_nearer(cells, thing))
    whole = [_two_parts(thing, part) for part in found]
    return [split for split in whole if split is not None]


def _nearer(cells: np.ndarray, thing: np.ndarray) -> np.ndarray:
    """The cells that lie nearer to the first of two middles."""
    spread = cells - cells.mean(0)
    axis = np.linalg.svd(spread.astype(float), full_matrices=False)[2][0]
    along = spread @ axis
    start = np.stack([cells[along.argmin()], cells[along.argmax()]]).astype(float)
    _, which = kmeans2(cells.astype(float), start, minit="matrix")
    part = np.zeros_like(thing)
    part[tuple(cells[which == 0].T)] = True
    return part


def _two_parts(thing: np.ndarray, part: np.ndarray) -> Split | None:
    """The largest connected piece of `part`, and of the rest; scraps go to the piece they touch.
    None where one of them is hardly anything."""
    first = _largest(part & thing)
    second = _largest(thing & ~first)
    if min(first.sum(), second.sum()) < max(2, SMALLEST * thing.size, 0.12 * thing.sum()):
        return None
    rest = thing & ~first & ~second
    if rest.any():
        to_first = ndimage.distance_transform_edt(~first)
        to_second = ndimage.distance_transform_edt(~second)
        first, second = (
            first | (rest & (to_first <= to_second)),
            second | (rest & (to_first > to_second)),
        )
    return Split(first, second)


def _largest(mask: np.ndarray) -> np.ndarray:
    labels, count = ndimage.label(mask, EIGHT)
    if count == 0:
        return np.zeros_like(mask)
    sizes = ndimage.sum_labels(mask, labels, range(1, count + 1))
    return labels == 1 + int(np.argmax(sizes))
