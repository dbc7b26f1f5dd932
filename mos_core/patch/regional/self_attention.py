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
        keys, values = k, v
        if group.keys is not None:
            seen = torch.cat([group.keys, added]) if len(added) else group.keys
            keys, values = (t.index_select(1, seen) for t in (k, v))
        own = attend(q.index_select(1, group.queries), keys, values, extra_options)
        copy = out.index_copy if torch.is_grad_enabled() else out.index_copy_
        out = copy(1, group.queries, own)
    return out


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
