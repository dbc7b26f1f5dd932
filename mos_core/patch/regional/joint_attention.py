"""Who sees whom in the attention of a diffusion transformer, through ComfyUI's own override.

The override is one function for all attentions of a model, so hooks on the modules that attend say
which is running. What another pack has put there is called for each group of tokens.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import comfy.utils
import torch

from ...compose.tokens import SeenGroup
from ...errors import RegionError
from ...families.family import ALONE_WORD
from ..host.autograd import BEFORE_RECOMPUTING
from .block import rows_of

OVERRIDE = "optimized_attention_override"  # ComfyUI's key in transformer_options
Watch = Callable[[str, int, torch.Tensor, torch.Tensor], None]
Sees = Callable[[str, int, int], Sequence[tuple[SeenGroup, ...] | None] | None]


class GroupedAttention:
    """The override of one call. sees: (kind, queries, keys) -> the groups of each chunk of
    the batch, or None: all see all. placement: what is added for regions' own words. prior: what
    was there before, or None. watch: is shown each attention, (kind, number among those of its
    kind, q, k), q and k as (batch, heads, tokens, width), before it runs. again: whether
    blocks are being computed again, which may end in the middle of one."""

    def __init__(
        self,
        sees: Sees,
        placement: float = 0.0,
        prior: Callable | None = None,
        watch: Watch | None = None,
        again: Callable[[], bool] = bool,
    ):
        self.sees = sees
        self.placement = placement
        self.prior = prior
        self.watch = watch
        self.again = again
        self.running: str | None = None
        self.number = 0  # of the attention that is running

    def __deepcopy__(self, memo: dict) -> "GroupedAttention":
        return self

    def __call__(
        self,
        func: Callable,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        attend = func if self.prior is None else partial(self.prior, func)
        kind, self.running = self.running, None
        along = 2 if kwargs.get("skip_reshape") else 1
        groups = None
        if kind is not None and self.watch is not None:
            by_heads = (_by_heads(t, heads, along) for t in (q, k))
            self.watch(kind, self.number, *by_heads)
        if kind is not None and kind != ALONE_WORD:
            groups = self.sees(kind, q.shape[along], k.shape[along])
        if groups is None:
            return attend(q, k, v, heads, *args, **kwargs)
        mask, rest = (args[0], args[1:]) if args else (kwargs.pop("mask", None), ())
        kwargs = {**kwargs, **dict(zip(("attn_precision",), rest, strict=False))}
        first = groups[0]
        if all(own is first for own in groups[1:]):
            assert first is not None  # else there would be no groups
            return self.attend_all(attend, q, k, v, heads, mask, first, along, kwargs)
        chunks = []
        for chunk, own in enumerate(groups):
            at = rows_of(chunk, groups, q.shape[0])
            part = mask[at] if mask is not None and len(mask) == len(q) else mask
            if own is None:
                chunks.append(attend(q[at], k[at], v[at], heads, mask=part, **kwargs))
            else:
                chunks.append(
                    self.attend_all(attend, q[at], k[at], v[at], heads, part, own, along, kwargs)
                )
        return torch.cat(chunks)

    def attend_all(
        self,
        attend: Callable,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        heads: int,
        mask: torch.Tensor | None,
        groups: Sequence[SeenGroup],
        along: int,
        options: Mapping,
    ) -> torch.Tensor:
        """`attend_groups` with the placement of now."""
        if self.placement:
            groups = [replace(group, bias=group.biased(self.placement)) for group in groups]
        return attend_groups(attend, q, k, v, heads, mask, groups, along, options)

    def begins(self, kind: str, number: int) -> None:
        """A module that attends begins to run, by its number among those of its kind."""
        if self.running is not None and not self.again():
            raise RegionError(
                "another pack has replaced this model's attention by one that does not ask "
                "ComfyUI's attention override, so regions have no effect in it; take that pack's "
                "node out, or the regions"
            )
        self.running, self.number = kind, number

    @contextmanager
    def watching(self, model: torch.nn.Module, attending: Mapping[str, str]) -> Iterator[None]:
        """Hooks that say which attention is running, for one call of the model. attending: path of
        a module -> what attends there, in running order."""
        handles = []
        seen: Counter[str] = Counter()
        try:
            for path, kind in attending.items():
                module = comfy.utils.get_attr(model, path)
                handles.append(module.register_forward_pre_hook(self._note(kind, seen[kind])))
                seen[kind] += 1
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _note(self, kind: str, number: int) -> Callable:
        def hook(module: torch.nn.Module, args: tuple) -> None:
            self.begins(kind, number)

        setattr(hook, BEFORE_RECOMPUTING, True)
        return hook


def _by_heads(tokens: torch.Tensor, heads: int, along: int) -> torch.Tensor:
    """(batch, heads, tokens, width); already so where tokens are on axis 2."""
    if along == 2:
        return tokens
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend_groups(
    attend: Callable,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None,
    groups: Sequence[SeenGroup],
    along: int,
    options: Mapping,
) -> torch.Tensor:
    """Each group's queries to its keys. q, k, v: (batch, tokens, inner) or (batch, heads,
    tokens, width), tokens on axis `along`. mask: as ComfyUI's attention takes it."""
    count = q.shape[along]
    axis = 2 if options.get("skip_output_reshape") else 1
    out = None
    for group in groups:
        whole = group.keys is None
        keys, values = (t if whole else t.index_select(along, group.keys) for t in (k, v))
        if len(group.queries) == count:
            return attend(q, keys, values, heads, mask=_mask(mask, group, count), **options)
        own = attend(
            q.index_select(along, group.queries),
            keys,
            values,
            heads,
            mask=_mask(mask, group, count),
            **options,
        )
        if out is None:
            shape = list(own.shape)
            shape[axis] = count
            out = own.new_empty(shape)
        copy = out.index_copy if torch.is_grad_enabled() else out.index_copy_
        out = copy(axis, group.queries, own)
    return out


def _mask(mask: torch.Tensor | None, group: SeenGroup, count: int) -> torch.Tensor | None:
    """What of a mask is this group's, and the group's own bias."""
    if mask is None:
        return group.bias
    if group.keys is not None:
        mask = mask.index_select(-1, group.keys)
    if mask.ndim > 1 and mask.shape[-2] == count:
        mask = mask.index_select(-2, group.queries)
    return mask if group.bias is None else mask + group.bias
