"""Region-aware LoRA injection (LoRA-Composer, eq. 1 and 2): a concept's deltas on its own tokens.

`y = W x + share_i * up_i (down_i x)` on the tokens of region i, `y = W x` bit for bit elsewhere.
The base weights are never written to, and no weight is merged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..records import Concepts, LowRank
from ..regions.region import Region, shares

# full: every linear layer. paper: queries, keys and values of cross-attention (and its output, as
# the public code). reference: the public code's keys, values and output of cross-attention.
INJECTIONS = ("full", "paper", "reference")
CROSS = {
    "full": ("to_q", "to_k", "to_v", "to_out.0"),
    "paper": ("to_q", "to_k", "to_v", "to_out.0"),
    "reference": ("to_k", "to_v", "to_out.0"),
}
RANK_TOGETHER = 64  # deltas up to this rank in sum run as one pair of products


@dataclass(frozen=True, eq=False)
class Injection:
    """Which concept each region draws, and where its deltas act.

    assigned: per region, a number in `concepts`, or None. strengths: per region, what its concept's
    strength is multiplied by; empty: 1.
    """

    setting: str
    concepts: Concepts
    assigned: tuple[int | None, ...]
    strengths: tuple[float, ...] = ()

    def __post_init__(self):
        assert self.setting in INJECTIONS
        if not self.strengths:
            object.__setattr__(self, "strengths", (1.0,) * len(self.assigned))

    def cross_factors(self, attention: str, part: str) -> list[LowRank | None]:
        """Per region, the factors of `part` of a cross-attention, with the concept's strength."""
        if part not in CROSS[self.setting]:
            return [None] * len(self.assigned)
        return [
            self._factors(number, f"{attention}.{part}", strength)
            for number, strength in zip(self.assigned, self.strengths, strict=True)
        ]

    @cached_property
    def elsewhere(self) -> dict[str, list[LowRank | None]]:
        """Module -> factors per concept, for all modules beside the cross-attentions."""
        if self.setting != "full":
            return {}
        used = set(self.assigned)
        modules = {
            name
            for number, entry in enumerate(self.concepts)
            if number in used and entry.strength_model != 0
            for name in entry.concept.unet
            if ".attn2." not in name
        }
        count = range(len(self.concepts))
        return {
            name: [self._factors(i, name) if i in used else None for i in count]
            for name in sorted(modules)
        }

    def _factors(self, number: int | None, module: str, strength: float = 1.0) -> LowRank | None:
        if number is None or strength == 0:
            return None
        entry = self.concepts[number]
        pair = entry.concept.unet.get(module)
        if pair is None or entry.strength_model == 0:
            return None
        up = pair.up.flatten(1) * (entry.strength_model * strength)
        return LowRank(pair.down.flatten(1), up)

    def shares(self, regions: Sequence[Region], rows: int, columns: int) -> torch.Tensor:
        """(concepts, cells) float32 on the CPU: each concept's share of each cell, times its
        strength there."""
        part = shares(regions, rows, columns).flatten(1)
        total = torch.zeros(len(self.concepts), rows * columns)
        for region, number in enumerate(self.assigned):
            if number is not None:
                total[number] += part[region] * self.strengths[region]
        return total


# --- a batch of regions, each with factors of its own: cross-attention -------------------------


def stack_factors(
    factors: Sequence[LowRank | None], device, dtype
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """(members, in, rank) and (members, rank, out), lower ranks filled up with zeros; None if no
    member has any."""
    known = [pair for pair in factors if pair is not None]
    if not known:
        return None
    rank, (out, into) = max(pair.rank for pair in known), known[0].shape
    down = torch.zeros(len(factors), into, rank)
    up = torch.zeros(len(factors), rank, out)
    for number, pair in enumerate(factors):
        if pair is not None:
            down[number, :, : pair.rank] = pair.down.T
            up[number, : pair.rank] = pair.up.T
    return down.to(device, dtype), up.to(device, dtype)


def thin_products(own: torch.Tensor, pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """(members, batch, count, in) -> (members, batch, count, out): up (down x) of each member."""
    members, batch, count, into = own.shape
    down, up = pair
    thin = torch.bmm(own.reshape(members, batch * count, into), down)
    return torch.bmm(thin, up).view(members, batch, count, -1)


# --- all concepts of a module at once: every other layer ----------------------------------------


@dataclass(frozen=True, eq=False)
class Block:
    """Some concepts' factors of one module side by side.

    concepts: their numbers. ranks: of each. down: (in, sum of ranks); up: (sum of ranks, out).
    """

    concepts: tuple[int, ...]
    ranks: tuple[int, ...]
    down: torch.Tensor
    up: torch.Tensor


def make_blocks(factors: Sequence[LowRank | None], device, dtype) -> tuple[Block, ...]:
    """factors: per concept. As few blocks as RANK_TOGETHER allows."""
    bundles: list[list[int]] = []
    total = 0
    for number, pair in enumerate(factors):
        if pair is None:
            continue
        if not bundles or total + pair.rank > RANK_TOGETHER:
            bundles.append([])
            total = 0
        bundles[-1].append(number)
        total += pair.rank
    blocks = []
    for bundle in bundles:
        pairs = [pair for number in bundle if (pair := factors[number]) is not None]
        blocks.append(
            Block(
                tuple(bundle),
                tuple(pair.rank for pair in pairs),
                torch.cat([pair.down for pair in pairs]).T.contiguous().to(device, dtype),
                torch.cat([pair.up for pair in pairs], 1).T.contiguous().to(device, dtype),
            )
        )
    return tuple(blocks)


@dataclass(frozen=True, eq=False)
class BlockPlace:
    """A block's cells on a feature map.

    cells: (u,) long, or None: all of the map. gates: (u, sum of ranks), each concept's share of
    each of these cells, once per rank.
    """

    cells: torch.Tensor | None
    gates: torch.Tensor


def place_block(
    concepts: Sequence[int], ranks: Sequence[int], part: torch.Tensor, device, dtype
) -> BlockPlace | None:
    """part: (concepts, cells), from Injection.shares. None if no cell is theirs."""
    own = part[list(concepts)]
    cells = (own > 0).any(0).nonzero()[:, 0]
    if len(cells) == 0:
        return None
    gates = own[:, cells].T.repeat_interleave(torch.tensor(list(ranks)), 1)
    whole = len(cells) == part.shape[1]
    return BlockPlace(None if whole else cells.to(device), gates.to(device, dtype))


def inject(
    output: torch.Tensor, x: torch.Tensor, block: Block, place: BlockPlace, in_place: bool
) -> torch.Tensor:
    """`output` of a linear layer with the block's deltas on their own tokens.

    x: (batch, cells, in), output: (batch, cells, out), overwritten if `in_place`.
    """
    own = x if place.cells is None else x.index_select(1, place.cells)
    delta = ((own @ block.down) * place.gates) @ block.up
    if place.cells is None:
        return output.add_(delta) if in_place else output + delta
    if in_place:
        return output.index_add_(1, place.cells, delta)
    return output.index_add(1, place.cells, delta)
