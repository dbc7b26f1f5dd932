"""Which views a step sees: all of one shape, every view once per round."""

import math
import random
from collections.abc import Sequence

from .settings import TrainSettings


def pick_batch(shapes: Sequence[tuple], micro: int, settings: TrainSettings) -> list[int]:
    """Indices of one micro-batch, all of one shape: the shapes take turns as often as they have
    batches, and every view of a shape comes once per round, both in an order drawn per round."""
    views: dict = {}
    for index, shape in enumerate(shapes):
        views.setdefault(shape, []).append(index)
    size = settings.batch_size
    turns = [shape for shape, own in views.items() for _ in range(math.ceil(len(own) / size))]
    rounds, turn = divmod(micro, len(turns))
    order = shuffled(turns, settings.seed, rounds)
    shape, own = order[turn], views[order[turn]]
    nth = rounds * turns.count(shape) + order[:turn].count(shape)  # batch of this shape
    return [
        shuffled(own, settings.seed, position // len(own))[position % len(own)]
        for position in range(nth * size, (nth + 1) * size)
    ]


def shuffled(items: Sequence, seed: int, rounds: int) -> list:
    """The same order for the same seed and round."""
    items = list(items)
    random.Random(seed * 7_919 + rounds).shuffle(items)
    return items
