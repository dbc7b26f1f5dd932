"""What a run's attention looks at, read beside it: an attention override that changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ...find.silhouettes import Maps

POSITIVE = 0  # in cond_or_uncond
OVERRIDE = "optimized_attention_override"  # ComfyUI's key in transformer_options
MOST_CELLS = 4096  # of the maps: self-attention is a matrix of cells by cells
FINE_ENOUGH = 32  # cells of the longer side; with fewer at 1/16 of the picture, 1/8 is taken


def grid_for(rows: int, columns: int) -> tuple[int, int]:
    """The grid of the maps for a latent of (rows, columns): that of 1/16 of the picture (half the
    latent's), finer for small pictures, coarser for very large ones."""
    grid = (rows, columns)
    if max(rows, columns) / 2 >= FINE_ENOUGH:
        grid = _half(grid)
    while grid[0] * grid[1] > MOST_CELLS:
        grid = _half(grid)
    return grid


def _half(grid: tuple[int, int]) -> tuple[int, int]:
    """As a convolution of stride 2 leaves it."""
    return -(-grid[0] // 2), -(-grid[1] // 2)


class AttentionWatch:
    """Sums attention over the layers of the positive prompt's half, first picture of the batch.

    positions: per mention, of its tokens in the text of `tokens` tokens. weight: of the step that
    is running; later steps see more. Layers on the grid of the maps and on the next coarser one
    count, each map as a multiple of its mean.
    """

    def __init__(
        self,
        grid: tuple[int, int],
        positions: Sequence[Sequence[int]],
        tokens: int,
        prior: Any = None,
    ):
        self.grid, self.tokens, self.prior = grid, tokens, prior
        self.coarser = _half(grid)
        self.positions = [list(own) for own in positions]
        self.weight = 1.0
        self.words: torch.Tensor | None = None  # (mentions, rows, columns), summed
        self.own: torch.Tensor | None = None  # (cells, cells), summed

    def __deepcopy__(self, memo: dict[int, Any]) -> AttentionWatch:
        return self

    def __call__(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        options = kwargs.get("transformer_options") or {}
        if len(args) >= 4 and not kwargs.get("skip_reshape"):
            self.note(args[0], args[1], args[3], options)
        if self.prior is not None:
            return self.prior(func, *args, **kwargs)
        return func(*args, **kwargs)

    def note(self, q: torch.Tensor, k: torch.Tensor, heads: int, options: dict) -> None:
        """q: (batch, cells, inner), k: (batch, tokens or cells, inner) of one attention."""
        grid = tuple(options.get("activations_shape", ())[-2:])
        if grid not in (self.grid, self.coarser) or q.shape[1] != grid[0] * grid[1]:
            return
        chunks = options.get("cond_or_uncond") or [POSITIVE]
        if POSITIVE not in chunks:
            return
        row = chunks.index(POSITIVE) * (q.shape[0] // len(chunks))
        queries, keys = (t[row].float().unflatten(-1, (heads, -1)) for t in (q, k))
        if k.shape[1] % self.tokens == 0 and k.shape[1] != q.shape[1]:
            self.add_words(mean_attention(queries, keys), grid)
        elif k.shape[1] == q.shape[1] and grid == self.grid:
            maps = self.weight * mean_attention(queries, keys)
            self.own = maps if self.own is None else self.own + maps

    def add_words(self, maps: torch.Tensor, grid: tuple[int, int]) -> None:
        """maps: (cells, tokens) of one layer; a text that was repeated counts as a whole."""
        maps = maps.unflatten(1, (-1, self.tokens)).sum(1)
        words = torch.stack([maps[:, own].mean(1) for own in self.positions])
        words = (words / words.mean(1, keepdim=True).clamp(min=1e-12)).unflatten(1, grid)
        if grid != self.grid:
            words = F.interpolate(words[None], self.grid, mode="bilinear")[0]
        words = self.weight * words
        self.words = words if self.words is None else self.words + words

    def maps(self) -> Maps | None:
        """On the CPU; None where nothing was seen."""
        if self.words is None:
            return None
        own = None if self.own is None else self.own / self.own.sum(1, keepdim=True)
        return Maps(self.words.cpu(), None if own is None else own.cpu())


def mean_attention(queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """(cells, keys) float32: probabilities, the mean over the heads. queries: (cells, heads, d),
    keys: (keys, heads, d). One head at a time, because the matrices are large."""
    heads, scale = queries.shape[1], queries.shape[-1] ** -0.5
    total = queries.new_zeros(queries.shape[0], keys.shape[0])
    for head in range(heads):
        total += (queries[:, head] @ keys[:, head].T * scale).softmax(-1)
    return total / heads
