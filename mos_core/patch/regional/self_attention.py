"""Self-attention of one layer, in which regions do not see each other.

Another pack may have put keys behind the cells (a reference picture, attention that is shared
between pictures): they belong to no region, and every region sees them.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ...compose.isolation import IsolatedGroup
from ...families import AttentionLayer
from .block import attend


def isolated_attention(
    groups: Sequence[IsolatedGroup],
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    extra_options: dict,
) -> torch.Tensor:
    """q: (batch, cells, inner); k, v: (batch, cells and what was added, inner)."""
    cells, out = q.shape[1], torch.empty_like(q)
    added = torch.arange(cells, k.shape[1], device=k.device)
    for group in groups:
        queries, keys, values = q.index_select(1, group.queries), k, v
        if group.keys is not None:
            seen = group.keys
            if len(added):
                sets = seen.unflatten(0, (group.members, -1))
                seen = torch.cat([sets, added.expand(group.members, -1)], 1).flatten()
            queries, keys, values = (
                by_member(t, group.members)
                for t in (queries, *(t.index_select(1, seen) for t in (k, v)))
            )
        own = attend(queries, keys, values, extra_options)
        copy = out.index_copy if torch.is_grad_enabled() else out.index_copy_
        out = copy(1, group.queries, own.reshape(len(q), -1, own.shape[-1]))
    return out


def by_member(tokens: torch.Tensor, members: int) -> torch.Tensor:
    """(batch, members * n, inner) -> (batch * members, n, inner)"""
    return tokens.unflatten(1, (members, -1)).flatten(0, 1)


def record_self(
    recorder: Any,
    layer: AttentionLayer,
    regions: Iterable[int],
    q: torch.Tensor,
    k: torch.Tensor,
    bias: torch.Tensor | None,
    extra_options: dict,
) -> None:
    """Hands the recorder queries and keys of the whole canvas. bias: (cells, cells), or None."""
    added = k.shape[1] - q.shape[1]
    if bias is not None and added:
        bias = torch.cat([bias, bias.new_zeros(len(bias), added)], 1)
    for region in regions:
        recorder.self_attention(layer.index, region, q, k, extra_options["n_heads"], bias)
