"""Which thing is whose: N concepts get N places."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from .things import WORTH, find_things, splits_of

ORDER = 0.06  # of a concept's mass: decides where the maps do not, by the order of the words
PLACE = 0.3  # what it is worth to have a place at all: of two in one piece, each gets a part
REPULSION = 0.15  # how much of a place counts against it where others' maps are stronger


def assign_things(
    things: Sequence[np.ndarray], masses: np.ndarray
) -> tuple[list[int | None], float]:
    """The number of each concept's thing, each thing once, and the sum of what they gain.

    masses: (concepts, rows, columns), each adding up to 1: how much of a concept's map lies where.
    A thing is worth the concept's mass in it, less a part of the other concepts' (repulsion); where
    two concepts have one map, the words' order goes from left to right.
    """
    concepts = len(masses)
    if not things:
        return [None] * concepts, 0.0
    inside = np.array([[(mass * thing).sum() for thing in things] for mass in masses])
    others = inside.sum(0, keepdims=True) - inside
    worth = inside - REPULSION * others / max(1, concepts - 1)
    middles = np.array([np.argwhere(thing)[:, 1].mean() for thing in things])
    places = (middles - middles.min()) / max(1e-9, np.ptp(middles))
    wanted = np.linspace(0, 1, concepts) if concepts > 1 else np.array([0.5])
    worth = worth - ORDER * np.abs(wanted[:, None] - places[None])
    rows, columns = linear_sum_assignment(-worth)
    found: list[int | None] = [None] * concepts
    for row, column in zip(rows, columns, strict=True):
        found[row] = int(column)
    return found, float(worth[rows, columns].sum() + PLACE * len(rows))


def divide(drawn: np.ndarray, masses: np.ndarray) -> tuple[list[np.ndarray], list[int | None]]:
    """The things of a foreground (rows, columns) bool, and whose they are.

    A thing is split as long as the concepts gain by it: two that touch, or two of one kind in one
    piece.
    """
    things = find_things(drawn)
    found, worth = assign_things(things, masses)
    for _ in range(2 * len(masses)):
        better = None
        for number, thing in enumerate(things):
            for split in splits_of(thing, masses):
                tried = [*things[:number], split.first, split.second, *things[number + 1 :]]
                whose, gain = assign_things(tried, masses)
                if gain > worth + WORTH and (better is None or gain > better[2]):
                    better = (tried, whose, gain)
        if better is None:
            break
        things, found, worth = better
    return things, found
