"""Concept region mask (LoRA-Composer): in self-attention a region does not look at other regions.

Instead of a mask matrix: tokens that belong to the same set of regions form a group, and a group's
queries attend to the gathered keys that it may see. Fewer keys make it cheaper than plain
attention. A token is a cell, or a word of a region's text where both run in one sequence. A cell
belongs to a region from half a cell's cover on, whatever the region's weight; a region of weight 0
isolates nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from ..regions.region import Region

# on: a cell sees its own regions and the background. reference: as the public code, where a cell
# of two regions sees neither of them (for comparison with it).
ISOLATIONS = ("off", "on", "reference")
INSIDE = 0.5  # of a cell
BARRED = -1e4  # added to a logit; finite, so that half precision has no NaN

Signature = frozenset[int]  # the regions that a token belongs to


@dataclass(frozen=True, eq=False)
class IsolatedGroup:
    """Queries that see the same keys. queries: (n,) long; keys: (m,) long, or None: all of them."""

    queries: torch.Tensor
    keys: torch.Tensor | None


def cell_members(regions: Sequence[Region], rows: int, columns: int) -> torch.Tensor:
    """(regions, cells) bool on the CPU: which cells of a feature map belong to which region."""
    member = torch.zeros(len(regions), rows * columns, dtype=torch.bool)
    for number, region in enumerate(regions):
        if region.weight > 0:
            cover = replace(region, weight=1.0).weights(rows, columns)
            member[number] = cover.flatten() >= INSIDE
    return member


def signatures(member: torch.Tensor) -> dict[Signature, torch.Tensor]:
    """member: (regions, tokens) bool. Set of regions -> (n,) long on the CPU, the tokens that
    belong to exactly these."""
    if not len(member):
        return {frozenset(): torch.arange(member.shape[1])}
    sets, inverse = member.T.unique(dim=0, return_inverse=True)
    return {
        frozenset(row.nonzero()[:, 0].tolist()): (inverse == number).nonzero()[:, 0]
        for number, row in enumerate(sets)
    }


def sees(query: Signature, key: Signature, mode: str) -> bool:
    """Whether tokens of `query` attend to tokens of `key`."""
    if not query or not key:
        return True
    if mode == "reference":
        return len(query | key) == 1
    return bool(query & key)


def isolate(member: torch.Tensor, mode: str, device="cpu") -> tuple[IsolatedGroup, ...]:
    """The groups of one sequence of tokens, on the device; the background's comes first, if there
    is one. One group that sees everything: there is nothing to isolate.

    member: (regions, tokens) bool, such as cell_members.
    """
    assert mode in ("on", "reference")
    found = signatures(member)
    groups = []
    for query in sorted(found, key=lambda s: (len(s), sorted(s))):
        seen = [tokens for key, tokens in found.items() if sees(query, key, mode)]
        # Nothing to see (a cell of two regions that cover everything, reference): itself.
        keys = torch.cat(seen or [found[query]]).sort().values
        whole = len(keys) == member.shape[1]
        groups.append(IsolatedGroup(found[query].to(device), None if whole else keys.to(device)))
    return tuple(groups)


def isolation_bias(groups: Sequence[IsolatedGroup], tokens: int, device="cpu") -> torch.Tensor:
    """(tokens, tokens) float32, [query, key]: 0 where it may look, BARRED elsewhere."""
    bias = torch.zeros(tokens, tokens, device=device)
    for group in groups:
        if group.keys is not None:
            row = torch.full((tokens,), BARRED, device=device)
            row = row.index_fill(0, group.keys, 0.0)
            bias = bias.index_copy(0, group.queries, row.expand(len(group.queries), tokens))
    return bias
