"""Attention maps of words, spread to silhouettes by self-attention, and told apart."""

import torch
import torch.nn.functional as F

BRIGHT = 0.98  # quantile of a map that counts as its full strength: one hot cell is no measure
SMOOTH = (0.25, 0.5, 0.25)  # along rows and columns; attention of single cells is noisy
FAINT = 0.35  # a map with so much of the clearest one's contrast is as good as that one
ROUNDS = 30  # of balancing


def spread(words: torch.Tensor, own: torch.Tensor | None, power: int) -> torch.Tensor:
    """Each cell takes on the attention of the cells that it looks at: `A + T A + ... + T^power A`.

    words: A, (concepts, rows, columns), attention of the cells to each concept's words. own: S,
    (cells, cells) row-stochastic [query, key], the mean of the self-attentions, or None: A stays.
    T is S above what every cell looks at anyway, its rows adding up to 1 again: in models whose
    self-attention is broad, S itself would spread a map over the whole picture. The map itself is
    kept in the sum, so that nothing can be spread to nothing.
    """
    if own is None or power == 0:
        return words
    beyond = (own - 2 * own.mean(0, keepdim=True)).clamp(min=0)
    beyond = beyond / beyond.sum(1, keepdim=True).clamp(min=1e-12)
    flat = words.flatten(1).T  # (cells, concepts)
    total = flat
    for _ in range(power):
        flat = beyond @ flat
        total = total + flat
    return total.T.reshape(words.shape) / (power + 1)


def smooth(maps: torch.Tensor) -> torch.Tensor:
    """maps (concepts, rows, columns), each cell averaged with its neighbours."""
    kernel = torch.tensor(SMOOTH, dtype=maps.dtype, device=maps.device)
    kernel = (kernel[:, None] * kernel).expand(1, 1, 3, 3)
    return F.conv2d(F.pad(maps[:, None], (1, 1, 1, 1), mode="replicate"), kernel)[:, 0]


def contrast(words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each map from 0 (its median) to 1 (its bright quantile), clamped; and how clear it is, 0..1.

    words: (concepts, rows, columns). Clear is what rises above its median as far as the clearest
    map does, or a FAINT part of that; words that draw nothing have a flat map, whose noise would
    otherwise be scaled up to a silhouette.
    """
    flat = words.flatten(1).double()
    low = flat.median(1, keepdim=True).values
    high = flat.quantile(BRIGHT, dim=1, keepdim=True)
    rise = (high - low) / low.clamp(min=1e-12)
    scaled = ((flat - low) / (high - low).clamp(min=1e-12)).clamp(0, 1) * (rise > 1e-6)
    clear = (rise / (FAINT * rise.max()).clamp(min=1e-12)).clamp(0, 1)[:, 0]
    return scaled.to(words.dtype).reshape(words.shape), clear.to(words.dtype)


def compete(
    scores: torch.Tensor,
    background: float = 0.35,
    sharpness: float = 12.0,
    least: float = 0.4,
    most: float = 2.0,
) -> torch.Tensor:
    """(concepts + 1, rows, columns): how far each cell is each concept's, the last the
    background's; they add up to 1.

    A softmax over the scores (concepts, rows, columns) in 0..1 and the background's constant score,
    then rounds of balancing (as Sinkhorn's, one-sided): a concept whose share of the foreground is
    under `least` or over `most` times an equal share is raised or lowered as a whole until it is
    not. What is background does not change by it.
    """
    concepts = scores.shape[0]
    ground = torch.full_like(scores[:1], background)
    drawn = 1 - (sharpness * torch.cat([scores, ground])).softmax(0)[-1]  # (rows, columns)
    inside = sharpness * scores
    bias = scores.new_zeros(concepts, 1, 1)
    equal = (drawn.mean() / concepts).clamp(min=1e-12)
    for _ in range(ROUNDS):
        share = ((inside + bias).softmax(0) * drawn).mean((1, 2), keepdim=True)
        wanted = share.clamp(least * equal, most * equal)
        bias = bias + 0.5 * (wanted / share.clamp(min=1e-12)).log()
    own = (inside + bias).softmax(0) * drawn
    return torch.cat([own, 1 - drawn[None]])
