"""What of a feature map belongs to a region, as the guidance counts it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..regions.region import Region

TOP_K = 0.2  # share of a region's cells whose values count (LoRA-Composer, eq. 3 and 7)
INSIDE = 0.5  # a soft mask counts from here
GAUSSIAN_SIGMA = 1.0  # on coordinates that run from -1 to 1 over the box (public code)


@dataclass(frozen=True, eq=False)
class RegionCells:
    """A region on a (rows, columns) feature map; all tensors on one device.

    inside: (rows, columns) 1 in the region, 0 outside. gaussian: (rows, columns) peak 1 in the
    middle of the region's bounding box, 0 outside. queries, outside: flat cell numbers in the
    region and not in it. window: the bounding box in cells. top_k: how many values count.
    """

    inside: torch.Tensor
    gaussian: torch.Tensor
    queries: torch.Tensor
    outside: torch.Tensor
    window: tuple[slice, slice]
    top_k: int

    def to(self, device) -> "RegionCells":
        moved = {
            name: getattr(self, name).to(device)
            for name in ("inside", "gaussian", "queries", "outside")
        }
        return replace(self, **moved)


def region_cells(region: Region, rows: int, columns: int) -> RegionCells | None:
    """The cells of a region, on the CPU; None if it has none on a map of this size."""
    cover = replace(region, weight=1.0).weights(rows, columns)
    inside = (cover >= INSIDE).float()
    down, across = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    if len(down) == 0:
        return None
    window = (slice(int(down[0]), int(down[-1]) + 1), slice(int(across[0]), int(across[-1]) + 1))
    gaussian = torch.zeros(rows, columns)
    gaussian[window] = box_gaussian(
        window[0].stop - window[0].start, window[1].stop - window[1].start
    )
    flat = inside.flatten() > 0
    count = int(flat.sum())
    return RegionCells(
        inside,
        gaussian * inside,
        flat.nonzero()[:, 0],
        (~flat).nonzero()[:, 0],
        window,
        # The public code rounds down to 0 cells here, and then means nothing at all: NaN.
        max(1, math.floor(TOP_K * count)),
    )


def box_gaussian(rows: int, columns: int) -> torch.Tensor:
    """(rows, columns): exp(-(y^2 + x^2) / 2) with y and x from -1 to 1, largest value 1.

    A side of one cell counts as its middle.
    """
    y, x = (_coordinates(count) for count in (rows, columns))
    field = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * GAUSSIAN_SIGMA**2))
    return field / field.max()


def _coordinates(count: int) -> torch.Tensor:
    return torch.linspace(-1, 1, count) if count > 1 else torch.zeros(1)


def grids_of(rows: int, columns: int, levels: int) -> tuple[tuple[int, int], ...]:
    """Sizes of the feature maps of a latent, finest first: every level halves, rounding up."""
    grids = [(rows, columns)]
    for _ in range(levels - 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
        grids.append((rows, columns))
    return tuple(grids)


def choose_level(
    regions: Sequence[Region], grids: Sequence[tuple[int, int]], wanted: int, least: int
) -> int:
    """The level whose maps the guidance looks at: `wanted`, or the nearest finer one on which every
    region has at least `least` cells (the finest, if there is none)."""
    for level in range(wanted, 0, -1):
        cells = [region_cells(region, *grids[level]) for region in regions]
        if all(c is not None and len(c.queries) >= least for c in cells):
            return level
    return 0
