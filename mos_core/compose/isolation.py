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


@dataclass(frozen=True)
class Isolation:
    """Who is kept from seeing whom. mode: of ISOLATIONS. border: share of a region's size (the root
    of its cells) up to which its cells are open where they lie beside cells that they would not
    see; 0: none is, as published."""

    mode: str = "off"
    border: float = 0.0

    @classmethod
    def of(cls, chosen: "Isolation | str") -> "Isolation":
        """The same, or the published one of this mode."""
        return chosen if isinstance(chosen, Isolation) else cls(chosen)

    def __post_init__(self):
        assert self.mode in ISOLATIONS
        assert self.border >= 0

    def members(self, regions: Sequence[Region], rows: int, columns: int) -> torch.Tensor:
        """(regions, cells) bool on the CPU: the cells of each region that are closed to others."""
        member = cell_members(regions, rows, columns)
        return open_borders(member, rows, columns, self.border) if self.border else member


@dataclass(frozen=True, eq=False)
class IsolatedGroup:
    """Sets of queries, each with the keys that it sees; equally many of both, so that all run as
    one batch. queries: (members * n,) long; keys: (members * m,) long, or None: every query sees
    all of them; member by member."""

    queries: torch.Tensor
    keys: torch.Tensor | None
    members: int = 1

    def sets(self) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        """Each member's queries (n,) and keys (m,)."""
        if self.keys is None:
            return [(self.queries, None)]
        pairs = (tokens.chunk(self.members) for tokens in (self.queries, self.keys))
        return list(zip(*pairs, strict=True))


def cell_members(regions: Sequence[Region], rows: int, columns: int) -> torch.Tensor:
    """(regions, cells) bool on the CPU: which cells of a feature map belong to which region."""
    member = torch.zeros(len(regions), rows * columns, dtype=torch.bool)
    for number, region in enumerate(regions):
        if region.weight > 0:
            cover = replace(region, weight=1.0).weights(rows, columns)
            member[number] = cover.flatten() >= INSIDE
    return member


def open_borders(member: torch.Tensor, rows: int, columns: int, share: float) -> torch.Tensor:
    """(regions, rows * columns) bool: `member` without the cells beside such as they would not look
    at. They belong to no region then: all see them, and they see all.

    share: how far from these, of the root of a region's cells (of the largest region's, for cells
    of several); rounded, one cell at least.
    """
    free = torch.zeros(rows, columns, dtype=torch.bool)
    found = {regions: cells for regions, cells in signatures(member).items() if regions}
    for own, cells in found.items():
        others = [tokens for other, tokens in found.items() if not own & other]
        if not others:
            continue
        unseen, inside = torch.zeros(2, rows * columns, dtype=torch.bool)
        unseen[torch.cat(others)] = True
        inside[cells] = True
        reach = max(1, round(share * member[list(own)].sum(1).max().item() ** 0.5))
        free |= inside.view(rows, columns) & grown(unseen.view(rows, columns), reach)
    return member & ~free.flatten()


def grown(cells: torch.Tensor, reach: int) -> torch.Tensor:
    """(rows, columns) bool: `cells`, and all that lie within `reach` rows and columns of one."""
    pool, width = torch.nn.functional.max_pool2d, 2 * reach + 1
    out = cells[None].float()
    out = pool(out, (width, 1), stride=1, padding=(reach, 0))
    return pool(out, (1, width), stride=1, padding=(0, reach))[0] > 0


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
    alike: dict[tuple[int, int], list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for query in sorted(found, key=lambda s: (len(s), sorted(s))):
        seen = [tokens for key, tokens in found.items() if sees(query, key, mode)]
        # Nothing to see (a cell of two regions that cover everything, reference): itself.
        keys = torch.cat(seen or [found[query]]).sort().values
        alike.setdefault((len(found[query]), len(keys)), []).append((found[query], keys))
    groups = []
    for (_, count), sets in alike.items():
        queries, keys = (torch.cat(tokens) for tokens in zip(*sets, strict=True))
        if count == member.shape[1]:  # they see everything
            groups.append(IsolatedGroup(queries.to(device), None))
        else:
            groups.append(IsolatedGroup(queries.to(device), keys.to(device), len(sets)))
    return tuple(groups)


def isolation_bias(groups: Sequence[IsolatedGroup], tokens: int, device="cpu") -> torch.Tensor:
    """(tokens, tokens) float32, [query, key]: 0 where it may look, BARRED elsewhere."""
    bias = torch.zeros(tokens, tokens, device=device)
    for group in groups:
        for queries, keys in group.sets():
            if keys is None:
                continue
            row = torch.full((tokens,), BARRED, device=device)
            row = row.index_fill(0, keys, 0.0)
            bias = bias.index_copy(0, queries, row.expand(len(queries), tokens))
    return bias
