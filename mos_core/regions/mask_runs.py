"""A mask in a layout's JSON: the lengths of its runs on a compact grid over the whole canvas.

{"size": [128, 128], "runs": [4000, 12, 116, 14, 12242]}

size: columns and rows of the grid. runs: row by row, how many cells are black, how many then white,
then black again; the first may be 0, and together they are the whole grid. The editor's grid has
cells of 4 pixels, and of 8, 16, ... where the longer side would have more than LONGEST of them.
"""

from itertools import pairwise
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F

from ..errors import RegionError

CELL = 4  # pixels of a cell of the editor's grid, on canvases that are not too large for it
LONGEST = 256  # cells of the longer side
LARGEST = 4096 * 4096  # cells of a grid that is read at all
WHITE = 0.5  # a soft mask that is written is white from here

WHAT_IT_IS = 'A mask is {"size": [columns, rows], "runs": [black, white, black, ...]}'


def read_mask(entry: Any, name: str) -> torch.Tensor:
    """(rows, columns) float32 of 0 and 1. Raises RegionError, naming the region."""
    if not isinstance(entry, dict):
        raise RegionError(f"The mask of the region '{name}' is no object. {WHAT_IT_IS}.")
    size, runs = entry.get("size"), entry.get("runs")
    if not (_are_numbers(size) and len(size) == 2 and min(size) > 0):
        raise RegionError(
            f"The mask of the region '{name}' has the size {size!r}, not columns and rows. "
            f"{WHAT_IT_IS}."
        )
    columns, rows = size
    if columns * rows > LARGEST:
        raise RegionError(
            f"The mask of the region '{name}' has {columns} x {rows} cells; at most {LARGEST} can "
            "be read. Draw it on a coarser grid."
        )
    if not _are_numbers(runs):
        raise RegionError(
            f"The mask of the region '{name}' has no list of runs (whole numbers). {WHAT_IT_IS}."
        )
    if sum(runs) != columns * rows:
        raise RegionError(
            f"The runs of the mask of the region '{name}' are {sum(runs)} cells in all; its grid "
            f"of {columns} x {rows} has {columns * rows}. {WHAT_IT_IS}."
        )
    values = torch.arange(len(runs)) % 2
    mask = values.repeat_interleave(torch.tensor(runs, dtype=torch.long))
    return mask.view(rows, columns).float()


def write_mask(mask: torch.Tensor, width: int, height: int) -> dict[str, Any]:
    """The entry of a mask (rows, columns) over a canvas of `width` x `height` pixels.

    On the mask's own grid where it is no finer than the editor's, else averaged to that; what is at
    least half as bright as the brightest cell is white.
    """
    rows, columns = mask.shape
    across, down = grid_of(width, height)
    if rows > down or columns > across:
        mask = F.adaptive_avg_pool2d(mask[None, None], (down, across))[0, 0]
        rows, columns = down, across
    flat = (mask >= WHITE * mask.max().clamp(min=1e-6)).flatten().to(torch.int8)
    changes = (flat.diff() != 0).nonzero()[:, 0] + 1
    edges = [0, *changes.tolist(), rows * columns]
    runs = [end - start for start, end in pairwise(edges)]
    return {"size": [columns, rows], "runs": [0, *runs] if flat[0] else runs}


def grid_of(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the editor's grid over a canvas of `width` x `height` pixels."""
    cell = CELL
    while max(width, height) / cell > LONGEST:
        cell *= 2
    return -(-width // cell), -(-height // cell)


def describe_mask(mask: torch.Tensor, name: str, width: int, height: int) -> str | None:
    """A note where the mask is stretched: its shape differs from the canvas's by over a cell."""
    rows, columns = mask.shape
    if abs(columns * height / width - rows) < 1 or abs(rows * width / height - columns) < 1:
        return None
    return (
        f"The mask of the region '{name}' has {columns} x {rows} cells and was stretched to the "
        f"canvas of {width} x {height} pixels."
    )


def _are_numbers(values: Any) -> TypeGuard[list[int]]:
    return isinstance(values, list) and all(
        isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in values
    )
