"""Latent re-initialisation (LoRA-Composer, eq. 10): noise that suits a concept goes into its box.

Frame: windows are in cells of the attention maps; a cell is `cell` x `cell` of the latent.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .cells import RegionCells

Place = tuple[int, int]  # row and column of a window's top left corner, in cells


def best_window(token_maps: torch.Tensor, cells: RegionCells) -> Place:
    """Where a window of the region's size and shape sees most of its concept; the first of equals.

    token_maps: (concept tokens, rows, columns), not smoothed; they are summed.
    """
    shape = cells.inside[cells.window].to(token_maps.dtype)  # (window rows, window columns)
    score = F.conv2d(token_maps.sum(0)[None, None], shape[None, None])[0, 0]
    best = int(score.argmax())
    return best // score.shape[1], best % score.shape[1]


def paste_windows(
    latent: torch.Tensor, places: Sequence[Place], regions: Sequence[RegionCells], cell: int
) -> torch.Tensor:
    """A latent (channels, height, width) with the noise found at `places` in the regions, in their
    order; where they overlap the later one stays. All of it is taken from the latent as given."""
    result = latent.clone()
    height, width = latent.shape[1:]
    for (row, column), cells in zip(places, regions, strict=True):
        inside = cells.inside.repeat_interleave(cell, 0).repeat_interleave(cell, 1)
        y, x = inside[:height, :width].nonzero(as_tuple=True)
        from_y = y + (row - cells.window[0].start) * cell
        from_x = x + (column - cells.window[1].start) * cell
        # the last cell of an odd-sized latent is cut: its edge stands in for what is missing
        result[:, y, x] = latent[:, from_y.clamp(0, height - 1), from_x.clamp(0, width - 1)]
    return result


def with_statistics_of(latent: torch.Tensor, model: torch.Tensor) -> torch.Tensor:
    """`latent` (channels, height, width) with the mean and standard deviation of `model`'s values,
    over all of them at once."""
    return (latent - latent.mean()) / latent.std() * model.std() + model.mean()
