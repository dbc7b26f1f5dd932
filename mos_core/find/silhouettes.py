"""From the maps of a short run to a place for each mention of a concept."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage

from .maps import compete, contrast, smooth, spread
from .outline import draw_outlines, free_place
from .places import divide
from .settings import MISSING, FindSettings

FOUND, FREE, KEPT, LEFT_OUT = "found", "free place", "kept", "left out"
ENOUGH = 0.12  # of a map's mass must lie in its thing, or the thing is not the concept's
PIECE = 0.3  # of the largest piece's size: smaller pieces of a silhouette in a box are scraps


@dataclass(frozen=True, eq=False)
class Maps:
    """What the attention of a run saw, on one grid of cells.

    words: (mentions, rows, columns), attention to the words of each mention, 0 or more. own:
    (cells, cells) row-stochastic, the mean self-attention, or None.
    """

    words: torch.Tensor
    own: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a mention was found. mask: soft, None where there is none or a box is kept. how: FOUND,
    FREE (given a place where nothing is), KEPT (its box, in which nothing was found) or LEFT_OUT.
    share: of the map's mass that lies in the thing, 0..1."""

    mask: torch.Tensor | None
    how: str
    share: float


def find_places(
    maps: Maps, settings: FindSettings, boxes: Sequence[torch.Tensor] | None = None
) -> list[Place]:
    """A place for each mention, in order.

    boxes: per mention (rows, columns) in 0..1, where it may be found (the grown box), or None: all
    over the picture. Two mentions never get the same thing.
    """
    scores, clear = contrast(smooth(spread(maps.words.float(), maps.own, settings.spread)))
    if boxes is not None:
        return _inside(scores, torch.stack([*boxes]) > 0, settings)
    drawn = compete(scores * clear[:, None, None], settings.background)[-1] < 0.5
    masses = scores / scores.sum((1, 2), keepdim=True).clamp(min=1e-9)
    things, whose = divide(_opened(drawn.numpy()), masses.numpy())
    shares = [
        0.0 if number is None else float((mass.numpy() * things[number]).sum())
        for number, mass in zip(whose, masses, strict=True)
    ]
    found: list[np.ndarray | None] = [
        things[number] if number is not None and share >= ENOUGH else None
        for number, share in zip(whose, shares, strict=True)
    ]
    how = [FOUND if thing is not None else LEFT_OUT for thing in found]
    if settings.missing == MISSING[0]:
        for i, thing in enumerate(found):
            if thing is None:
                taken = [other for other in found if other is not None]
                rank = i / max(1, len(found) - 1)
                found[i], how[i] = free_place(taken, rank, *scores.shape[1:]), FREE
    return _drawn(found, how, shares, settings)


def _inside(scores: torch.Tensor, allowed: torch.Tensor, settings: FindSettings) -> list[Place]:
    """Each mention's silhouette in its own box."""
    shares_of = compete(scores * allowed, settings.background)
    label = shares_of[:-1].argmax(0)  # (rows, columns)
    drawn = shares_of[-1] < 0.5
    found: list[np.ndarray | None] = []
    shares, how = [], []
    for i, (score, box) in enumerate(zip(scores, allowed, strict=True)):
        thing = _pieces((drawn & (label == i) & box).numpy())
        share = 0.0
        if thing is not None:
            share = float((score.numpy() * thing).sum() / (score * box).sum().clamp(min=1e-9))
        thing = thing if share >= ENOUGH else None
        found.append(thing)
        shares.append(share)
        how.append(FOUND if thing is not None else KEPT)
    return _drawn(found, how, shares, settings)


def _pieces(mask: np.ndarray) -> np.ndarray | None:
    """The largest connected piece and those not much smaller, holes filled; None if there is
    none."""
    labels, count = ndimage.label(ndimage.binary_fill_holes(_opened(mask)), np.ones((3, 3)))
    if count == 0:
        return None
    sizes = ndimage.sum_labels(labels > 0, labels, range(1, count + 1))
    kept = [i + 1 for i, size in enumerate(sizes) if size >= PIECE * sizes.max()]
    return np.isin(labels, kept)


def _opened(mask: np.ndarray) -> np.ndarray:
    """Without whiskers one cell thin."""
    return ndimage.binary_opening(mask, np.ones((2, 2)))


def _drawn(found, how, shares, settings: FindSettings) -> list[Place]:
    there = [thing for thing in found if thing is not None]
    masks = iter(draw_outlines(there, settings.shape, settings.grow, settings.feather))
    return [
        Place(None if thing is None else next(masks), way, share)
        for thing, way, share in zip(found, how, shares, strict=True)
    ]
