"""Regions of a canvas, and how they share the cells of a feature map.

Box coordinates are fractions of the canvas, so a layout fits a latent of any size.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F

NAME_LENGTH = 40  # of a prompt in a message
ROUNDING = 1e-6  # of a cell: an edge on the grid stays there, whatever fractions round to


@dataclass(frozen=True)
class Box:
    """x0 <= x < x1, y0 <= y < y1, fractions of the canvas in 0..1."""

    x0: float
    y0: float
    x1: float
    y1: float

    def cells(self, rows: int, columns: int) -> tuple[slice, slice]:
        """The cells of a (rows, columns) feature map that lie wholly inside, as slices.

        `ceil(start) .. floor(end)` (Mix-of-Show and LoRA-Composer): a box may have no cell on a
        coarse map; it has no effect there.
        """
        top, left = math.ceil(self.y0 * rows - ROUNDING), math.ceil(self.x0 * columns - ROUNDING)
        bottom = math.floor(self.y1 * rows + ROUNDING)
        right = math.floor(self.x1 * columns + ROUNDING)
        return slice(top, max(top, bottom)), slice(left, max(left, right))

    def weights(self, rows: int, columns: int) -> torch.Tensor:
        """(rows, columns) float32 on the CPU: 1 on the box's cells, 0 elsewhere."""
        weights = torch.zeros(rows, columns)
        weights[self.cells(rows, columns)] = 1.0
        return weights


@dataclass(frozen=True, eq=False)
class Region:
    """A part of the canvas with a prompt of its own.

    box or mask, one of them: mask (height, width) float32 in 0..1 over the whole canvas, any
    resolution; soft values are weights. weight: 0 or more; 1 replaces what was there, less mixes.
    concept: name of the concept that the region draws, or None: found by the tokens in `prompt`.
    color: number of its colour in pictures of the layout; None: by its place.
    depth: where regions overlap, the one with the larger depth is in front and takes the cells;
    regions of the same depth share them, and None is 0. strength: 0 or more, multiplies the
    strength of the concept's LoRA in this region. reference: name of a picture of the region, for
    models that edit pictures; None: there is none. in_front: the regions that take cells from this
    one, which `Regions` finds by the depths.
    """

    prompt: str
    negative: str = ""
    weight: float = 1.0
    concept: str | None = None
    box: Box | None = None
    mask: torch.Tensor | None = field(default=None, repr=False)
    color: int | None = None
    depth: float | None = None
    strength: float = 1.0
    reference: str | None = None
    in_front: tuple["Region", ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """How messages call it: its prompt, shortened."""
        text = " ".join(self.prompt.split()) or "without a prompt"
        return text if len(text) <= NAME_LENGTH else text[: NAME_LENGTH - 1] + "…"

    def weights(self, rows: int, columns: int) -> torch.Tensor:
        """(rows, columns) float32 on the CPU: the region's weight on each cell of a feature map.

        A mask is averaged over each cell; a box counts the cells that lie wholly inside. Regions in
        front have taken their part.
        """
        own = self._alone(rows, columns)
        return own * left_by(self.in_front, rows, columns) if self.in_front else own

    def _alone(self, rows: int, columns: int) -> torch.Tensor:
        if self.box is not None:
            return self.weight * self.box.weights(rows, columns)
        assert self.mask is not None
        mask = self.mask.detach().float().cpu()[None, None]
        return self.weight * F.adaptive_avg_pool2d(mask, (rows, columns))[0, 0]


@dataclass(frozen=True, eq=False)
class Regions:
    """What travels on a MOS_REGIONS wire: a canvas in pixels and its regions, in order.

    notes: what was changed on the way in (a box that was clipped), one sentence each.
    """

    width: int
    height: int
    regions: tuple[Region, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self):
        if any(region.depth is not None or region.in_front for region in self.regions):
            object.__setattr__(self, "regions", stacked(self.regions))

    def with_region(self, region: Region) -> "Regions":
        return Regions(self.width, self.height, (*self.regions, region), self.notes)

    def after(self, before: "Regions | None") -> "Regions":
        """The regions of `before`, then these, on this canvas.

        Boxes and masks keep their fractions; another aspect ratio is stretched, with a note.
        """
        if before is None:
            return self
        notes = (*before.notes, *self.notes)
        if before.regions and before.width * self.height != before.height * self.width:
            notes += (
                f"The regions before were made for {before.width} x {before.height} pixels and are "
                f"stretched to {self.width} x {self.height}.",
            )
        return Regions(self.width, self.height, (*before.regions, *self.regions), notes)


def stacked(regions: Sequence[Region]) -> tuple[Region, ...]:
    """The same regions, each with those `in_front` of it: those of a larger depth."""
    alone = [replace(region, in_front=()) for region in regions]
    return tuple(
        replace(region, in_front=tuple(r for r in alone if _depth(r) > _depth(region)))
        for region in alone
    )


def left_by(front: Iterable[Region], rows: int, columns: int) -> torch.Tensor:
    """(rows, columns) float32 on the CPU in 0..1: what of each cell regions in front leave.

    Those of one depth take their weights' sum, at most the whole cell; those behind them share what
    is left. A region without weight takes nothing.
    """
    left = torch.ones(rows, columns)
    front = tuple(front)
    for depth in sorted({_depth(region) for region in front}):
        level = [region for region in front if _depth(region) == depth]
        taken = torch.stack([region._alone(rows, columns) for region in level]).sum(0)
        left *= 1 - taken.clamp(max=1.0)
    return left


def _depth(region: Region) -> float:
    return 0.0 if region.depth is None else region.depth


def shares(regions: Sequence[Region], rows: int, columns: int) -> torch.Tensor:
    """(regions, rows, columns) float32 on the CPU: each region's share of each cell, in 0..1.

    A cell's weights are divided by their sum where that is above 1: full regions that overlap are
    averaged (as published), a region of weight w < 1 alone takes w, and what is left of a cell,
    1 - sum of the shares, belongs to the global prompt. Where regions have depths, those in front
    take theirs first.
    """
    if not regions:
        return torch.zeros(0, rows, columns)
    weights = torch.stack([region.weights(rows, columns) for region in regions])
    return weights / weights.sum(0).clamp(min=1.0)
