"""Regional attention on gathered tokens: the regions' own queries, keys and values, and no more.

Frames: a feature map of (rows, columns) cells is a sequence of rows * columns tokens. All tensors
of a Placement lie on one device and were made before the sampling step that uses them, so that
nothing waits for the device (Mix-of-Show, "regionally controllable sampling"; LoRA-Composer,
eq. 2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..regions.region import Region, shares


@dataclass(frozen=True, eq=False)
class Group:
    """Regions with equally many cells and text tokens: they run as one batch.

    members: region numbers. cells: (members * count,) long, flat cell numbers, member by member.
    covered: the same cells as positions in Placement.covered. shares: (members, 1, count, 1).
    """

    members: tuple[int, ...]
    count: int
    cells: torch.Tensor
    covered: torch.Tensor
    shares: torch.Tensor


@dataclass(frozen=True, eq=False)
class Placement:
    """Where the regions lie on one feature map.

    covered: (u,) long, cells that belong to a region. rest: (u, 1), what is left of them to the
    global prompt. whole: every covered cell belongs to one region alone, wholly. everything:
    nothing of the map is left to the global prompt.
    """

    groups: tuple[Group, ...]
    covered: torch.Tensor
    rest: torch.Tensor
    whole: bool
    everything: bool


def place_regions(
    regions: Sequence[Region],
    lengths: Sequence[int],
    rows: int,
    columns: int,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Placement:
    """lengths: text tokens of each region. Regions without a cell here are in no group."""
    part = shares(regions, rows, columns).flatten(1)  # (regions, cells)
    taken = part > 0
    covered = taken.any(0).nonzero()[:, 0]
    position = torch.zeros(rows * columns, dtype=torch.long)
    position[covered] = torch.arange(len(covered))
    alike: dict[tuple[int, int], list[int]] = {}
    for number, cells in enumerate(taken):
        if count := int(cells.sum()):
            alike.setdefault((count, lengths[number]), []).append(number)
    groups = []
    for (count, _), members in alike.items():
        cells = torch.cat([taken[m].nonzero()[:, 0] for m in members])
        own = torch.stack([part[m][taken[m]] for m in members])
        groups.append(
            Group(
                tuple(members),
                count,
                cells.to(device),
                position[cells].to(device),
                own[:, None, :, None].to(device, dtype),
            )
        )
    rest = (1 - part.sum(0))[covered].clamp(min=0)
    return Placement(
        tuple(groups),
        covered.to(device),
        rest[:, None].to(device, dtype),
        whole=bool((part[taken] == 1).all()),
        everything=len(rest) == rows * columns and not bool(rest.any()),
    )


def gather(tokens: torch.Tensor, group: Group) -> torch.Tensor:
    """(batch, cells, width) -> (members, batch, count, width): each member's own cells."""
    if group.count == tokens.shape[1]:  # each member has all cells
        return tokens.expand(len(group.members), *tokens.shape)
    own = tokens.index_select(1, group.cells)
    return own.unflatten(1, (len(group.members), group.count)).transpose(0, 1)


def scatter(own: torch.Tensor) -> torch.Tensor:
    """(members, batch, count, width) -> (batch, members * count, width), in the order of cells."""
    return own.transpose(0, 1).flatten(1, 2)


def mix_regions(
    base: torch.Tensor | None,
    outputs: Sequence[torch.Tensor],
    placement: Placement,
    in_place: bool = False,
) -> torch.Tensor:
    """The layer's output: `base` outside the regions, bit for bit; inside, each region's share.

    base: (batch, cells, width), overwritten if `in_place`; None if the regions are `everything`.
    outputs: per group, (members, batch, count, width).
    """
    cells = placement.covered
    if placement.whole:
        mixed = torch.cat([scatter(out) for out in outputs], 1)
        if base is None and mixed.shape[1] == placement.groups[0].count:
            return mixed  # one region that has all cells, in their order
        cells = torch.cat([group.cells for group in placement.groups])
    else:
        parts = [
            (group.covered, scatter(out * group.shares))
            for group, out in zip(placement.groups, outputs, strict=True)
        ]
        if base is None:
            mixed = outputs[0].new_zeros(outputs[0].shape[1], len(cells), outputs[0].shape[3])
        else:
            mixed = base.index_select(1, cells) * placement.rest
        for positions, part in parts:
            mixed = mixed.index_add(1, positions, part)
        if base is None:
            return mixed  # covered is all cells, in their order
    if base is None:
        return torch.empty_like(mixed).index_copy(1, cells, mixed)
    if in_place:
        return base.index_copy_(1, cells, mixed)
    return base.index_copy(1, cells, mixed)


def repeat_tokens(text: torch.Tensor, length: int) -> torch.Tensor:
    """(batch, tokens, width) -> (batch, length, width), all tokens equally often: attention to it
    is the same. length: a multiple of `tokens`."""
    times, rest = divmod(length, text.shape[1])
    assert rest == 0
    return text if times == 1 else text.repeat(1, times, 1)


def common_length(lengths: Sequence[int]) -> int:
    """The shortest length that all texts can be repeated to."""
    return math.lcm(*lengths)
