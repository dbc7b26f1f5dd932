"""Deltas that depend on the weight that they are put on, as exact formulas."""

from __future__ import annotations

import torch

from ..deltas import Decomposed, Delta, Whole
from .adapter import Adapter
from .ends import DORA, MAGNITUDE, OFT_V2, SET
from .plain import plain_delta


def knows(adapter: Adapter) -> bool:
    """Whether based_delta has the adapter's formula; what it has not, ComfyUI's own code has."""
    if adapter.algorithm in ("GLoRA", "OFT"):
        return False
    return adapter.needs_base


def based_delta(adapter: Adapter, weight: torch.Tensor) -> Delta:
    """The delta on a base weight W0, (out, in * kernel), which is kept and not copied.

    DoRA per output (dora_scale (out, 1)), as ComfyUI has it: `s = dora_scale / norm(rows of W0)`.
    PEFT and ai-toolkit (`lora_magnitude_vector`): `s = magnitude / norm(rows of W0 + dW)`
    (arXiv 2402.09353, equation 5). Both are s (W0 + dW) per output row. DoRA per input (1, in):
    columns instead of rows. Rotated inputs: `W0 R^T` (arXiv 2506.19847).
    """
    if adapter.algorithm == "set":
        return Whole(adapter.tensors[SET].flatten(1).to(weight.device).float() - weight.float())
    if adapter.algorithm == "OFT of rows":
        return Whole(_rotated(adapter.tensors[OFT_V2].to(weight.device), weight.float()))
    inner = plain_delta(adapter)
    eps = torch.finfo(torch.float32).eps
    magnitude = adapter.get(MAGNITUDE)
    if magnitude is not None:
        norm = (weight.float() + inner.matrix().to(weight.device)).norm(dim=1)
        return _by_rows(weight, magnitude.flatten().to(norm) / norm, inner)
    scale = adapter.tensors[DORA].to(weight.device).float()
    if scale.shape[0] == weight.shape[0]:
        return _by_rows(weight, scale.flatten() / (weight.float().norm(dim=1) + eps), inner)
    whole = weight.float() + inner.matrix().to(weight.device)
    cells = whole.shape[1] // scale.numel()  # of a kernel
    columns = whole.unflatten(1, (-1, cells))
    norm = columns.pow(2).sum((0, 2)).sqrt() + eps  # (in,)
    return Whole((columns * (scale.flatten() / norm)[:, None]).flatten(1) - weight.float())


def _by_rows(weight: torch.Tensor, s: torch.Tensor, inner: Delta) -> Decomposed:
    return Decomposed(weight, s - 1, s, inner)


def _rotated(vectors: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`W0 R^T - W0`: R block-diagonal, each block a Cayley-Neumann series of five terms.

    vectors: (blocks, n (n - 1) / 2), the upper triangles of skew matrices Q; one block is shared by
    all. R = I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4.
    """
    size = block_size(vectors.shape[1])
    q = weight.new_zeros(len(vectors), size, size)
    rows, columns = torch.triu_indices(size, size, 1)
    q[:, rows, columns] = vectors.float()
    q = q - q.transpose(1, 2)
    q2 = q @ q
    change = 2 * (q + q2 + q2 @ q) + q2 @ q2  # R - I
    blocks = weight.unflatten(1, (-1, size))  # (out, blocks, n)
    return torch.einsum("obk,bck->obc", blocks, change.expand(blocks.shape[1], -1, -1)).flatten(1)


def block_size(triangle: int) -> int:
    """n of an n (n - 1) / 2."""
    return round((1 + (1 + 8 * triangle) ** 0.5) / 2)
