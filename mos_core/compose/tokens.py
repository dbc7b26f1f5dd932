"""Regions in one sequence of text and image: which tokens see which, and which delta each gets.

Sequence of a joint attention: [global text, the regions' texts, image cells, tokens of the whole
picture]. A token of the image reads the texts by its shares (Mix-of-Show's, as weights of the keys:
`softmax(q k + log share)`); region i's text and cells see themselves and the background, and no
other region's (LoRA-Composer's concept region mask, with words as members of a region). Tokens that
see the same keys form a group, whose queries attend to the gathered keys: no mask matrix, but for
cells that several texts share.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .isolation import Signature, sees, signatures

ROUNDING = 1e-5  # a share nearer to 0 or 1 is that


@dataclass(frozen=True)
class TextPlan:
    """The texts of one sequence, one after the other.

    words: of the global text, then of each region's: (tokens that are words of this half, tokens
    of room). A region without words reads the global text.
    """

    words: tuple[tuple[int, int], ...]

    @property
    def total(self) -> int:
        return sum(room for _, room in self.words)

    @property
    def starts(self) -> tuple[int, ...]:
        """Where each text begins."""
        at, starts = 0, []
        for _, room in self.words:
            starts.append(at)
            at += room
        return tuple(starts)

    @property
    def ranges(self) -> tuple[range, ...]:
        """Of each text, its words."""
        pairs = zip(self.starts, self.words, strict=True)
        return tuple(range(start, start + count) for start, (count, _) in pairs)

    @property
    def idle(self) -> range | tuple[int, ...]:
        """Tokens of room that are nobody's words."""
        used = {token for words in self.ranges for token in words}
        return tuple(token for token in range(self.total) if token not in used)


@dataclass(frozen=True, eq=False)
class SeenGroup:
    """Queries that see the same keys.

    queries: (n,) long; keys: (m,) long, or None: all of them. bias: (n, m) float32, added to the
    logits, or None. own: (m,) float32, 1 where a key is a word of a region and the queries are the
    image's, for placement; None: nowhere.
    """

    queries: torch.Tensor
    keys: torch.Tensor | None
    bias: torch.Tensor | None
    own: torch.Tensor | None = None

    def biased(self, placement: float) -> torch.Tensor | None:
        """What is added to the logits, with `placement` more for the regions' own words; (n, m) or
        None."""
        if self.own is None or not placement:
            return self.bias
        more = (placement * self.own).expand(len(self.queries), -1)
        return more if self.bias is None else self.bias + more


def read_shares(parts: torch.Tensor, plan: TextPlan) -> torch.Tensor:
    """(1 + regions, tokens) float32: how much each token of the image reads each text.

    parts: (regions, tokens), each region's share. What regions without words would read, and what
    is left, is the global text's.
    """
    own = parts.float().clone()
    for region, (words, _) in enumerate(plan.words[1:]):
        if not words:
            own[region] = 0.0
    reads = torch.cat([(1 - own.sum(0, keepdim=True)).clamp(min=0), own])
    reads[reads < ROUNDING] = 0.0
    reads[:, (reads > 1 - ROUNDING).any(0)] = (
        reads[:, (reads > 1 - ROUNDING).any(0)] > 0.5
    ).float()
    return reads


def see_texts(plan: TextPlan) -> tuple[SeenGroup, ...]:
    """Texts alone (a refiner of text): each sees itself."""
    groups = [
        _group(torch.tensor(words), [(text, words)], (), None, of_image=False)
        for text, words in enumerate(plan.ranges)
        if len(words)
    ]
    return (*_merged(groups, plan.total), *_idle(plan))


def see_image(member: torch.Tensor, mode: str) -> tuple[SeenGroup, ...]:
    """The image alone. member: (regions, tokens) bool. mode: of ISOLATIONS."""
    groups = _image_classes(member, None, (), mode, 0, with_image=True)
    return _merged(groups, member.shape[1])


def see_across(
    plan: TextPlan, member: torch.Tensor, parts: torch.Tensor, mode: str
) -> tuple[SeenGroup, ...]:
    """Cross-attention: queries of the image, keys of the texts."""
    reads = read_shares(parts, plan)
    groups = _image_classes(member, reads, plan.ranges, mode, 0, with_image=False)
    return _merged(groups, plan.total)


def see_jointly(
    plan: TextPlan, member: torch.Tensor, parts: torch.Tensor, mode: str, placed: bool = False
) -> tuple[SeenGroup, ...]:
    """Text and image in one sequence. member, parts: (regions, image tokens), whose background
    belongs to no region. placed: words and cells are to be told apart, for placement."""
    start, count = plan.total, member.shape[1]
    if mode == "off":
        member = torch.zeros_like(member)
    own = signatures(member)
    found = []
    for text, words in enumerate(plan.ranges):
        if len(words):  # as cells of its region that read nothing else
            signature = frozenset({text - 1}) if text and mode != "off" else frozenset()
            image = _visible(own, signature, mode, start)
            found.append(_group(torch.tensor(words), [(text, words)], image, None, of_image=False))
    reads = read_shares(parts, plan)
    found += _image_classes(member, reads, plan.ranges, mode, start, with_image=True)
    total = start + count
    return (*_merged(found, total, apart=placed), *_idle(plan))


def _image_classes(
    member: torch.Tensor,
    reads: torch.Tensor | None,
    texts: Sequence[range],
    mode: str,
    start: int,
    with_image: bool,
) -> list[SeenGroup]:
    """A group per set of regions and of texts that are read. Queries count from `start` if the
    image is among the keys."""
    if mode == "off" or not with_image:
        member = torch.zeros_like(member)
    own = signatures(member)
    facts = member if reads is None else torch.cat([member, reads > 0])
    groups = []
    for key, tokens in signatures(facts).items():
        signature = frozenset(n for n in key if n < len(member))
        read = sorted(n - len(member) for n in key if n >= len(member))
        image = _visible(own, signature, mode, start) if with_image else ()
        weights = None
        if reads is not None and len(read) > 1:
            weights = reads[read][:, tokens].T  # (tokens, texts read)
        words = [(n, texts[n]) for n in read]
        groups.append(_group(tokens + start, words, image, weights))
    return groups


def _visible(own: dict[Signature, torch.Tensor], signature: Signature, mode: str, start: int):
    """The image tokens that tokens of `signature` see."""
    seen = [tokens for key, tokens in own.items() if mode == "off" or sees(signature, key, mode)]
    return torch.cat(seen or [own[signature]]).sort().values + start


def _group(
    queries, texts, image, weights: torch.Tensor | None = None, of_image: bool = True
) -> SeenGroup:
    """texts: (number, words) each, in order. weights: (queries, texts), None: one text alone."""
    image = torch.as_tensor(image, dtype=torch.long)
    words = [torch.tensor(words, dtype=torch.long) for _, words in texts]
    keys = torch.cat([*words, image])
    own = [torch.full((len(words),), float(number > 0)) for number, words in texts]
    marks = torch.cat([*own, torch.zeros(len(image))])
    bias = None
    if weights is not None:
        bias = torch.zeros(len(queries), len(keys))
        at = 0
        for column, (_, words) in enumerate(texts):
            bias[:, at : at + len(words)] = weights[:, column, None].log()
            at += len(words)
    return SeenGroup(queries.long(), keys, bias, marks if of_image and marks.any() else None)


def _idle(plan: TextPlan) -> list[SeenGroup]:
    """Nobody's tokens look at themselves, so that they stay numbers."""
    idle = torch.tensor(plan.idle, dtype=torch.long)
    return [SeenGroup(idle, idle, None)] if len(idle) else []


def _merged(groups: Sequence[SeenGroup], total: int, apart: bool = False) -> tuple[SeenGroup, ...]:
    """Groups without bias that see the same keys become one; `apart`: not those whose own words
    count differently. total: of all keys."""
    alike: dict[tuple, list[SeenGroup]] = {}
    for number, group in enumerate(groups):
        assert group.keys is not None
        same: tuple = (number, None)
        if group.bias is None:
            same = (*group.keys.tolist(), apart and group.own is not None)
        alike.setdefault(same, []).append(group)
    merged = []
    for own in alike.values():
        queries = torch.cat([group.queries for group in own])
        first = own[0]
        if first.bias is None:
            queries = queries.sort().values
        keys = None if first.keys is None or len(first.keys) == total else first.keys
        merged.append(SeenGroup(queries, keys, first.bias, first.own if apart else None))
    return tuple(merged)
