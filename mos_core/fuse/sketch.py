"""A few rows that stand for many: whose error a fused layer's loss is, without keeping rows.

A count sketch (Charikar et al. 2002): every row is added with a random sign to one of a few
buckets. For any matrix M the squared norm of `sketch @ M` is on average that of `rows @ M`, so
from the sketch of a concept's rows follows that concept's share of the loss, for any solution that
is found later, within some ten percent per layer and less over many layers.
"""

import torch

SKETCH_ROWS = 32


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
    sketches: list[torch.Tensor],
    deltas: list[torch.Tensor | None],
    fused: torch.Tensor,
    inverse: torch.Tensor | None,
) -> torch.Tensor:
    """Whose demands cost whom in one layer: (concepts, concepts + 2), squared errors.

    sketches: (SKETCH_ROWS, in) of each concept; deltas: (out, in), None for zero; fused: the
    layer's solution D; inverse: (G + ridge I)^-1, None for a solution that is not R G^-1.
    Column j: the part of the error of concept i that stands in j's favour; the last column but
    one: what the anchor and the ridge hold back; the last: what i asks for in all.

    D = sum_j dW_j G_j G^-1, so dW_i - D = sum_j (dW_i - dW_j) G_j G^-1 + (what anchor and ridge
    hold back): the error of i, projected on each of these parts.
    """
    count, table = len(sketches), torch.zeros(len(sketches), len(sketches) + 2)
    zeros = torch.zeros_like(fused)
    wanted = [zeros if delta is None else delta.to(fused) for delta in deltas]
    rows = [sketch.to(fused) for sketch in sketches]
    for i in range(count):
        own = rows[i] @ wanted[i].T  # (SKETCH_ROWS, out)
        error = own - rows[i] @ fused.T
        table[i, -1] = own.square().sum()
        table[i, -2] = error.square().sum()
        for j in range(count) if inverse is not None else ():
            if i != j:
                difference = rows[j] @ (wanted[i] - wanted[j]).T
                part = rows[i] @ inverse @ rows[j].T @ difference  # (SKETCH_ROWS, out)
                table[i, j] = (part * error).sum()
                table[i, -2] -= table[i, j]
    return table
