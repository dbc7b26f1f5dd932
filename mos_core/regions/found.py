"""Places that other nodes found in a picture become regions, with a line of prompts each."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import RegionError
from .region import Box, Region, Regions

ORDERS = ("as they come", "left to right", "largest first")


@dataclass(frozen=True, eq=False)
class Found:
    """A thing in a picture: its box (fractions) or its mask (height, width) in 0..1, and what the
    finder called it."""

    label: str = ""
    box: Box | None = None
    mask: torch.Tensor | None = None

    @property
    def empty(self) -> bool:
        return self.mask is not None and not (self.mask.isfinite().all() and self.mask.max() > 0)

    @property
    def middle(self) -> float:
        """From the left, fraction of the picture."""
        if self.box is not None:
            return (self.box.x0 + self.box.x1) / 2
        assert self.mask is not None
        columns = self.mask.sum(0)
        places = (torch.arange(len(columns)) + 0.5) / len(columns)
        return float((columns * places).sum() / columns.sum())

    @property
    def area(self) -> float:
        """Fraction of the picture."""
        if self.box is not None:
            return (self.box.x1 - self.box.x0) * (self.box.y1 - self.box.y0)
        assert self.mask is not None
        return float(self.mask.mean())


def add_found(
    found: Sequence[Found],
    things: str,
    prompts: str,
    size: tuple[int, int],
    order: str = ORDERS[0],
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each thing that has a prompt.

    things: what messages call them ("segments"). prompts: one a line, for the things in `order`;
    none at all: their labels. Those without a prompt and those without a pixel are left out, with a
    note. size: width and height of the picture, the canvas where there is no `before`. Raises
    RegionError if there are more prompts than things.
    """
    there = [thing for thing in found if not thing.empty]
    notes = []
    if len(there) < len(found):
        notes.append(f"{len(found) - len(there)} of {len(found)} {things} are empty: left out.")
    if order == "left to right":
        there.sort(key=lambda thing: thing.middle)
    elif order == "largest first":
        there.sort(key=lambda thing: -thing.area)
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    if len(lines) > len(there):
        raise RegionError(
            f"There are {len(lines)} prompts, but {len(there)} {things} that can be used. Write "
            "one line for each, or make the node that found them find more (a lower threshold)."
        )
    if not lines:
        lines = [thing.label.strip() for thing in there]
    regions = [
        Region(prompt, negative, weight, box=thing.box, mask=thing.mask)
        for prompt, thing in zip(lines, there, strict=False)
        if prompt
    ]
    if len(regions) < len(there):
        left_out = len(there) - len(regions)
        notes.append(f"{left_out} of {len(there)} {things} have no prompt and were left out.")
    if not found:
        notes.append(f"There are no {things}: nothing was added.")
    return _on_canvas(regions, notes, things, size, before)


def _on_canvas(regions, notes, things, size, before: Regions | None) -> Regions:
    width, height = size
    if before is None:
        return Regions(width, height, tuple(regions), tuple(notes))
    if regions and (width, height) != (before.width, before.height):
        done = "scaled" if width * before.height == height * before.width else "stretched"
        notes.append(
            f"The {things} are of a picture of {width} x {height} pixels and were {done} to the "
            f"canvas of {before.width} x {before.height}."
        )
    return Regions(
        before.width,
        before.height,
        (*before.regions, *regions),
        (*before.notes, *notes),
    )
