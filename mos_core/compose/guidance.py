"""LoRA-Composer's guidance: a loss on attention maps that says whether each concept fills its box.

Frames: maps are probabilities (0..1) of a feature map of (rows, columns) cells, means over heads
and over the layers of that resolution. Everything is per picture of a batch and differentiable.
The public code's numbers are the defaults; token positions are the caller's business.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .cells import RegionCells

ENHANCEMENT = 8.0  # factor of the enhancement term per concept token (public code; eq. 8)
FILL = 2.0  # of the fill term per concept token and axis
SOFT = 4.0  # T of the soft maximum over regions, in units of the loss
RESTRICTION = 10.0  # of the region perceptual restriction, once per region
# 3 x 3 smoothing, weights exp(-d^2): the public code's "sigma 0.5" is really sqrt(1/2).
SMOOTHING = tuple(w / 1.7357588823428847 for w in (0.36787944117144233, 1.0, 0.36787944117144233))


@dataclass(frozen=True)
class GuidanceTerms:
    """Strengths on top of the published factors; 0 switches a term off.

    smoothing, centring: the smoothing of token maps and the Gaussian of the enhancement term.
    balance: the regions' losses count by `balanced` instead of their sum.
    """

    enhancement: float = 1.0
    fill: float = 1.0
    restriction: float = 1.0
    smoothing: bool = True
    centring: bool = True
    balance: bool = False

    @property
    def any(self) -> bool:
        return max(self.enhancement, self.fill, self.restriction) > 0


@dataclass(frozen=True, eq=False)
class RegionLoss:
    """The terms of one region, with their factors and strengths, each (batch,)."""

    enhancement: torch.Tensor
    fill: torch.Tensor
    restriction: torch.Tensor

    @property
    def total(self) -> torch.Tensor:
        return self.enhancement + self.fill + self.restriction


def balanced(losses: torch.Tensor) -> torch.Tensor:
    """(regions, batch) -> (batch,): a soft maximum, `n T log mean exp(loss / T)` for n regions.

    Equal losses give their sum; otherwise those that are farthest from being filled are led most.
    Not in the papers.
    """
    count = len(losses)
    return count * SOFT * (torch.logsumexp(losses / SOFT, 0) - math.log(count))


def region_loss(
    token_maps: torch.Tensor, self_maps: torch.Tensor, cells: RegionCells, terms: GuidanceTerms
) -> RegionLoss:
    """How far a region is from being filled by its concept, and by nothing else.

    token_maps: (batch, concept tokens, rows, columns), the region's text on the whole canvas; no
    tokens: the first two terms are 0. self_maps: (batch, queries, rows * columns), self-attention
    of the region's cells to all cells.
    """
    zero = self_maps.new_zeros(self_maps.shape[0])
    enhancement, fill, restriction = zero, zero, zero
    maps = smooth(token_maps) if terms.smoothing else token_maps
    if terms.enhancement and maps.shape[1]:
        means = top_means(maps, cells, terms.centring)
        enhancement = terms.enhancement * ENHANCEMENT * (1 - means).clamp(min=0).sum(1)
    if terms.fill and maps.shape[1]:
        across, down = fill_distances(maps, cells)
        fill = terms.fill * FILL * (across + down).sum(1)
    if terms.restriction and len(cells.outside):
        restriction = terms.restriction * RESTRICTION * leak(self_maps, cells)
    return RegionLoss(enhancement, fill, restriction)


def smooth(maps: torch.Tensor) -> torch.Tensor:
    """3 x 3 smoothing of (batch, tokens, rows, columns), edges reflected."""
    line = torch.tensor(SMOOTHING, dtype=maps.dtype, device=maps.device)
    kernel = (line[:, None] * line[None, :])[None, None]
    flat = maps.flatten(0, 1)[:, None]  # (batch * tokens, 1, rows, columns)
    edge = "reflect" if min(maps.shape[-2:]) > 1 else "replicate"
    return F.conv2d(F.pad(flat, (1, 1, 1, 1), mode=edge), kernel)[:, 0].view_as(maps)


def top_means(maps: torch.Tensor, cells: RegionCells, centring: bool = True) -> torch.Tensor:
    """(batch, tokens): mean of the largest values in the region, weighted towards its middle
    (LoRA-Composer, eq. 3)."""
    weighted = maps * (cells.gaussian if centring else cells.inside)
    return weighted.flatten(2).topk(cells.top_k, dim=-1).values.mean(-1)


def fill_distances(maps: torch.Tensor, cells: RegionCells) -> tuple[torch.Tensor, torch.Tensor]:
    """Columns and rows, each (batch, tokens): L1 distance of the region's maxima along the other
    axis from the region's own shadow, a mean over the whole axis (eq. 4 to 6)."""
    held = maps * cells.inside
    across = (held.amax(-2) - cells.inside.amax(-2)).abs().mean(-1)
    down = (held.amax(-1) - cells.inside.amax(-1)).abs().mean(-1)
    return across, down


def leak(self_maps: torch.Tensor, cells: RegionCells) -> torch.Tensor:
    """(batch,): mean of the largest self-attention values from the region to any cell outside it
    (region perceptual restriction, eq. 7). self_maps: (batch, queries, rows * columns)."""
    outside = self_maps.index_select(-1, cells.outside)
    count = min(cells.top_k, outside[0].numel())
    return outside.flatten(1).topk(count, dim=-1).values.mean(-1)
