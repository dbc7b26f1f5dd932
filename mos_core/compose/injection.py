"""Region-aware LoRA injection (LoRA-Composer, eq. 1 and 2): a concept's deltas on its own tokens.

`y = W x + share_i * delta_i x` on the tokens of region i, `y = W x` bit for bit elsewhere. The base
weights are never written to, and no weight is merged. A token is a cell of a feature map, or a
token of a region's text where both run through one layer.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from ..deltas import Delta, LowRank
from ..records import Bound, Site
from ..regions.region import shares
from .drawn import Drawn

# full: every layer. paper: queries, keys and values of cross-attention (and its output, as the
# public code). reference: the public code's keys, values and output of cross-attention.
INJECTIONS = ("full", "paper", "reference")
CROSS = {
    "full": ("to_q", "to_k", "to_v", "to_out.0"),
    "paper": ("to_q", "to_k", "to_v", "to_out.0"),
    "reference": ("to_k", "to_v", "to_out.0"),
}
RANK_TOGETHER = 64  # deltas up to this rank in sum run as one pair of products
GATHER_BELOW = {"cuda": 0.5}
"""Share of a map's tokens from which on a delta runs on all of them, with gates of 0 elsewhere: on
a GPU the three kernels of that are started sooner than the five of gathered tokens."""


class Injection:
    """Where the deltas of the drawn regions act.

    concepts: those that a region draws, each once. cross: paths of the cross-attentions, whose
    deltas stand in the attention of each region; all other layers' are gated token by token.
    """

    def __init__(self, setting: str, drawn: Sequence[Drawn], cross: Collection[str] = ()):
        assert setting in INJECTIONS
        self.setting = setting
        self.drawn = tuple(drawn)
        self.cross = frozenset(cross)
        unique = {id(one.concept): one.concept for one in drawn if one.concept is not None}
        self.concepts: tuple[Bound, ...] = tuple(unique.values())
        self.numbers = {key: number for number, key in enumerate(unique)}

    def in_cross(self, attention: str, part: str) -> list[Delta | None]:
        """Per region, the delta of `part` ("to_q") of a cross-attention, given by its path; with
        the region's strength."""
        site = Site(f"{attention}.{part}.weight")
        if part not in CROSS[self.setting]:
            return [None] * len(self.drawn)
        return [_delta_of(one, site) for one in self.drawn]

    @cached_property
    def elsewhere(self) -> Mapping[Site, list[Delta | None]]:
        """Site -> delta per concept, for all layers beside the cross-attentions."""
        if self.setting != "full":
            return {}
        sites = {site for concept in self.concepts for site in concept.model}
        order = sorted(sites, key=lambda site: (site.key, site.part or ()))
        return {
            site: [concept.model.get(site) for concept in self.concepts]
            for site in order
            if not self._is_cross(site)
        }

    @cached_property
    def maps(self) -> Mapping[Site, list[Delta | None]]:
        """Site -> delta per concept, of convolutions larger than one cell."""
        if self.setting != "full":
            return {}
        sites = {site for concept in self.concepts for site in concept.maps}
        order = sorted(sites, key=lambda site: site.key)
        return {site: [concept.maps.get(site) for concept in self.concepts] for site in order}

    def _is_cross(self, site: Site) -> bool:
        return any(site.path.startswith(f"{attention}.") for attention in self.cross)

    def shares(self, rows: int, columns: int) -> torch.Tensor:
        """(concepts, cells) float32 on the CPU: each concept's share of each cell of a feature map,
        times its strength there."""
        part = shares([one.region for one in self.drawn], rows, columns).flatten(1)
        total = torch.zeros(len(self.concepts), rows * columns)
        for one, own in zip(self.drawn, part, strict=True):
            if one.concept is not None:
                total[self.numbers[id(one.concept)]] += own * one.region.strength
        return total


def _delta_of(one: Drawn, site: Site) -> Delta | None:
    delta = None if one.concept is None else one.concept.model.get(site)
    if delta is None or one.region.strength == 0:
        return None
    return delta.scaled(one.region.strength)


# --- a batch of regions, each with a delta of its own: cross-attention --------------------------


@dataclass(frozen=True, eq=False)
class DeltaStack:
    """The deltas of one layer for several members (regions), some of which may have none.

    down: (members, in, rank) and up: (members, rank, out), the low-rank ones, lower ranks filled up
    with zeros; None without any. others: member -> delta of another kind. width: out.
    """

    members: int
    width: int
    down: torch.Tensor | None
    up: torch.Tensor | None
    others: Mapping[int, Delta]

    def on(self, own: torch.Tensor) -> torch.Tensor:
        """(members, batch, count, in) -> (members, batch, count, out): each member's delta."""
        members, batch, count, into = own.shape
        if self.down is None or self.up is None:
            total = own.new_zeros(members, batch, count, self.width)
        else:
            thin = torch.bmm(own.reshape(members, batch * count, into), self.down)
            total = torch.bmm(thin, self.up).view(members, batch, count, -1)
        if not self.others:
            return total
        rows = list(total.unbind(0))
        for member, delta in self.others.items():
            rows[member] = rows[member] + delta.on_rows(own[member])
        return torch.stack(rows)

    def on_one(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, count, in) -> (batch, count, out) of a stack that has one member."""
        if self.down is None or self.up is None:
            return self.others[0].on_rows(x)
        return x @ self.down[0] @ self.up[0]

    def of(self, member: int) -> "DeltaStack":
        """The stack of one member alone."""
        down, up = (t if t is None else t[member : member + 1] for t in (self.down, self.up))
        others = {0: self.others[member]} if member in self.others else {}
        return DeltaStack(1, self.width, down, up, others)


def stack_deltas(deltas: Sequence[Delta | None], device, dtype) -> DeltaStack | None:
    """deltas: per member. None if no member has any."""
    known = [delta for delta in deltas if delta is not None]
    if not known:
        return None
    out, into = known[0].shape
    low = {n: delta for n, delta in enumerate(deltas) if isinstance(delta, LowRank)}
    others = {
        n: delta.to(device, dtype)
        for n, delta in enumerate(deltas)
        if delta is not None and n not in low
    }
    if not low:
        return DeltaStack(len(deltas), out, None, None, others)
    rank = max(delta.rank for delta in low.values())
    down, up = torch.zeros(len(deltas), into, rank), torch.zeros(len(deltas), rank, out)
    for n, delta in low.items():
        down[n, :, : delta.rank] = delta.down.flatten(1).T
        up[n, : delta.rank] = delta.up.flatten(1).T
    return DeltaStack(len(deltas), out, down.to(device, dtype), up.to(device, dtype), others)


# --- all concepts of a module at once: every other layer ----------------------------------------


@dataclass(frozen=True, eq=False)
class Bundle:
    """Some concepts' low-rank deltas of one module side by side.

    concepts: their numbers. ranks: of each. down: (in, sum of ranks); up: (sum of ranks, out).
    """

    concepts: tuple[int, ...]
    ranks: tuple[int, ...]
    down: torch.Tensor
    up: torch.Tensor

    def on(self, own: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """(batch, u, in) and gates (u, sum of ranks) -> (batch, u, out)."""
        return ((own @ self.down) * gates) @ self.up


@dataclass(frozen=True, eq=False)
class Single:
    """One concept's delta of another kind, which is gated as a whole."""

    concepts: tuple[int]
    delta: Delta
    ranks: tuple[int, ...] = (1,)  # one gate a token

    def on(self, own: torch.Tensor, gates: torch.Tensor) -> torch.Tensor:
        """(batch, u, in) and gates (u, 1) -> (batch, u, out)."""
        return self.delta.on_rows(own) * gates


def make_bundles(deltas: Sequence[Delta | None], device, dtype) -> tuple[Bundle | Single, ...]:
    """deltas: per concept. As few bundles as RANK_TOGETHER allows."""
    groups: list[dict[int, LowRank]] = []
    singles = []
    for number, delta in enumerate(deltas):
        if isinstance(delta, LowRank):
            total = sum(known.rank for known in groups[-1].values()) if groups else 0
            if not groups or total + delta.rank > RANK_TOGETHER:
                groups.append({})
            groups[-1][number] = delta
        elif delta is not None:
            singles.append(Single((number,), delta.to(device, dtype)))
    return (*(_bundle(group, device, dtype) for group in groups), *singles)


def _bundle(group: Mapping[int, LowRank], device, dtype) -> Bundle:
    down = torch.cat([delta.down.flatten(1) for delta in group.values()]).T.contiguous()
    up = torch.cat([delta.up.flatten(1) for delta in group.values()], 1).T.contiguous()
    ranks = tuple(delta.rank for delta in group.values())
    return Bundle(tuple(group), ranks, down.to(device, dtype), up.to(device, dtype))


@dataclass(frozen=True, eq=False)
class Gates:
    """Where a bundle acts in a sequence of tokens.

    tokens: (u,) long, or None: all of them. gates: (u, sum of ranks), each concept's share of each
    of these tokens, once per rank; 0 where it does not act.
    """

    tokens: torch.Tensor | None
    gates: torch.Tensor


def make_gates(
    concepts: Sequence[int],
    ranks: Sequence[int],
    part: torch.Tensor,
    device,
    dtype,
    enough: float | None = None,
) -> Gates | None:
    """part: (concepts, tokens), each concept's share of each token. None if no token is theirs.
    enough: from which share of all tokens on none are gathered; None: by the device."""
    own = part[list(concepts)]
    tokens = (own > 0).any(0).nonzero()[:, 0]
    if len(tokens) == 0:
        return None
    if enough is None:
        enough = GATHER_BELOW.get(torch.device(device).type, 1.0)
    whole = len(tokens) >= enough * part.shape[1]
    gates = (own if whole else own[:, tokens]).T.repeat_interleave(torch.tensor(list(ranks)), 1)
    return Gates(None if whole else tokens.to(device), gates.to(device, dtype))


def inject(
    output: torch.Tensor, x: torch.Tensor, bundle: Bundle | Single, gates: Gates, in_place: bool
) -> torch.Tensor:
    """`output` of a linear layer with the bundle's deltas on their own tokens.

    x: (batch, tokens, in), output: (batch, tokens, out), overwritten if `in_place`.
    """
    own = x if gates.tokens is None else x.index_select(1, gates.tokens)
    if gates.tokens is None and isinstance(bundle, Bundle) and output.is_contiguous():
        thin = ((own @ bundle.down) * gates.gates).flatten(0, -2)
        rows = output.view(-1, output.shape[-1])
        add = rows.addmm_ if in_place else rows.addmm
        return add(thin, bundle.up).view(output.shape)
    delta = bundle.on(own, gates.gates)
    if gates.tokens is None:
        return output.add_(delta) if in_place else output + delta
    if in_place:
        return output.index_add_(1, gates.tokens, delta)
    return output.index_add(1, gates.tokens, delta)
