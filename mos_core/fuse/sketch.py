"""A few rows that stand for many: whose error a fused layer's loss is, without keeping rows.

A count sketch (Charikar et al. 2002): every row is added with a random sign to one of a few
buckets. For any matrix M the squared norm of `sketch @ M` is on average that of `rows @ M`, so
from the sketch of a concept's rows follows that concept's share of the loss, for any solution that
is found later, within some tens of percent per layer and less over many layers.
"""

from collections.abc import Sequence

import torch

from ..deltas import Delta

SKETCH_ROWS = 16


def sketch_of(rows: torch.Tensor, first: int) -> torch.Tensor:
    """rows: (n, in), the first of which is number `first` of its concept -> (SKETCH_ROWS, in)."""
    count = rows.shape[0]
    signed = rows * signs(first, count, rows.device).to(rows)[:, None]
    signed = torch.nn.functional.pad(signed, (0, 0, 0, -count % SKETCH_ROWS))
    return signed.unflatten(0, (-1, SKETCH_ROWS)).sum(0)


def signs(first: int, count: int, device) -> torch.Tensor:
    """The same -1s and 1s for the same row numbers, on every device: (count,)."""
    x = torch.arange(first + 1, first + count + 1, device=device, dtype=torch.int64)
    for _ in range(2):  # an integer hash that mixes 32 bits
        x = ((x >> 16) ^ x) * 0x45D9F3B & 0xFFFFFFFF
    return ((x >> 16) & 1) * 2 - 1


def errors_of_concepts(
    sketches: Sequence[torch.Tensor],
    asked: Sequence[Delta | None],
    fused: torch.Tensor,
    inverse: torch.Tensor | None,
) -> torch.Tensor:
    """Which concept each concept's error goes to, in one layer: (concepts, concepts + 2), squared.

    sketches: (SKETCH_ROWS, in) of each concept; asked: their deltas, None for no change; fused:
    the layer's solution D (out, in); inverse: (G + ridge I)^-1, None for a solution that is not
    R G^-1. Column j: the part of the error of concept i that concept j gains by; the last but one:
    the rest, which anchor and ridge hold back; the last: what i asks for in all.

    D = sum_j dW_j G_j G^-1, so dW_i - D = sum_j (dW_i - dW_j) G_j G^-1 + (what anchor and ridge
    hold back): the error of i, projected on each of these parts.
    """
    count, table = len(sketches), torch.zeros(len(sketches), len(sketches) + 2)
    rows = [sketch.to(fused) for sketch in sketches]
    for i in range(count):
        own = mapped(rows[i], asked[i], fused)  # (SKETCH_ROWS, out)
        error = own - rows[i] @ fused.T
        table[i, -1] = own.square().sum()
        table[i, -2] = error.square().sum()
        spread = None if inverse is None else rows[i] @ inverse  # (SKETCH_ROWS, in)
        for j in range(count) if spread is not None else ():
            if i != j:
                difference = mapped(rows[j], asked[i], fused) - mapped(rows[j], asked[j], fused)
                table[i, j] = ((spread @ rows[j].T @ difference) * error).sum()
                table[i, -2] -= table[i, j]
    return table


def mapped(rows: torch.Tensor, delta: Delta | None, like: torch.Tensor) -> torch.Tensor:
    """What a delta makes of the rows, (rows, out); like: (out, in)."""
    if delta is None:
        return rows.new_zeros(rows.shape[0], like.shape[0])
    return delta.on_rows(rows)
