"""Attention maps of the regions, collected while the UNet runs, differentiably."""

from collections.abc import Mapping, Sequence

import torch

from ...compose.cells import RegionCells

RECORDER = "mix_of_show_recorder"  # its key in transformer_options
# There too: an ExitStack on which things put on modules for this pass live on, because a backward
# pass may run blocks again.
KEEP = "mix_of_show_keep"


class LastLayerDone(Exception):
    """Ends a forward pass in the last layer that was asked for: nothing after it is needed."""


class MapRecorder:
    """Sums of attention probabilities over the chosen layers of one conditional forward pass.

    layers: their running numbers. cells: per region, or None where it has none at this
    resolution. positions: per region, of its concept tokens in its own text (long, on the device).
    stop: raise LastLayerDone once all layers are there.
    """

    leads = True  # its pass is not one of the picture's own

    def __init__(
        self,
        layers: Sequence[int],
        cells: Sequence[RegionCells | None],
        positions: Sequence[torch.Tensor],
        stop: bool = True,
    ):
        self.layers = frozenset(layers)
        self.cells = cells
        self.positions = positions
        self.stop = stop
        self.replaying = False  # while blocks are computed again in a backward pass
        self.tokens: dict[int, torch.Tensor] = {}  # region -> (batch, tokens, cells), summed
        self.own: dict[int, torch.Tensor] = {}  # region -> (batch, queries, cells), summed
        self.counted: dict[tuple, int] = {}

    def __deepcopy__(self, memo: dict) -> "MapRecorder":
        return self

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def cross(self, layer: int, region: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        """q: (batch, cells, inner) of the whole canvas; k: (batch, tokens, inner) of the region's
        text. Both as they enter the attention."""
        positions = self.positions[region]
        if not self._fits(region, q) or len(positions) == 0:
            return
        maps = head_probabilities(q, k, heads)  # (batch, heads, cells, tokens)
        maps = maps.index_select(-1, positions).mean(1).transpose(1, 2)
        self._add(self.tokens, ("cross", layer, region), region, maps)

    def self_attention(
        self,
        layer: int,
        region: int,
        q: torch.Tensor,
        k: torch.Tensor,
        heads: int,
        allowed: torch.Tensor | None = None,
    ) -> None:
        """q, k: (batch, cells, inner) of the whole canvas. allowed: (cells, cells) additive mask
        [query, key], or None."""
        cells = self.cells[region]
        if cells is None or not self._fits(region, q):
            return
        if allowed is not None:
            allowed = allowed.index_select(0, cells.queries)
        maps = head_probabilities(q.index_select(1, cells.queries), k, heads, allowed).mean(1)
        self._add(self.own, ("self", layer, region), region, maps)

    def _fits(self, region: int, q: torch.Tensor) -> bool:
        """Whether the queries are the cells of our maps: another pack may merge or cut them."""
        cells = self.cells[region]
        return cells is not None and q.shape[1] == cells.inside.numel()

    def done(self, layer: int) -> None:
        """The layer has run. May raise LastLayerDone, which is to be let through."""
        if not self.replaying and self.stop and self.layers and layer == max(self.layers):
            raise LastLayerDone

    def _add(self, sums: dict, key: tuple, region: int, maps: torch.Tensor) -> None:
        if self.replaying:  # all was computed as before, and that is all that was wanted
            return
        self.counted[key] = self.counted.get(key, 0) + 1
        sums[region] = maps if region not in sums else sums[region] + maps

    def means(self, rows: int, columns: int) -> Mapping[int, tuple[torch.Tensor, torch.Tensor]]:
        """Region -> (batch, tokens, rows, columns) and (batch, queries, rows * columns), the means
        over heads and layers. Regions without cells at this resolution are left out."""
        result = {}
        for region, own in self.own.items():
            tokens = self.tokens.get(region)
            if tokens is None:
                tokens = own.new_zeros(own.shape[0], 0, rows * columns)
            times = self._times("cross", region)
            result[region] = (
                tokens.unflatten(-1, (rows, columns)) / max(times, 1),
                own / self._times("self", region),
            )
        return result

    def _times(self, kind: str, region: int) -> int:
        return sum(n for key, n in self.counted.items() if key[0] == kind and key[2] == region)


def head_probabilities(
    q: torch.Tensor, k: torch.Tensor, heads: int, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention probabilities (batch, heads, queries, keys) in float32. q: (batch, queries, inner),
    k: (batch, keys, inner); mask: (keys,) or (queries, keys), added to the logits."""
    q, k = (t.float().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k))
    logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    return (logits if mask is None else logits + mask.float()).softmax(-1)
