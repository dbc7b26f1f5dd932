"""Deltas of the algorithms that do not depend on the base weight, alpha multiplied in."""

from __future__ import annotations

import torch

from ..deltas import Delta, Kronecker, LowRank, Whole, hadamard
from .adapter import Adapter
from .ends import DIFF, DOWN, HADA, HADA_TUCKER, MID, UP


def plain_delta(adapter: Adapter) -> Delta:
    """The delta of an adapter's factors on unfolded rows, (out, in * kernel); DoRA's scale aside.

    LoRA: `alpha / rank * up @ down`. LoHa: the elementwise product of two such. LoKr: a Kronecker
    product. full: the matrix itself.
    """
    t = adapter.tensors
    if adapter.algorithm == "LoRA":
        down = t[DOWN].flatten(1)
        if MID in t:  # tucker: down, then the kernel, then up
            down = torch.einsum("ji,ojyx->oiyx", down.float(), t[MID].float()).flatten(1)
        return LowRank(down, t[UP].flatten(1)).scaled(adapter.scale)
    if adapter.algorithm == "LoHa":
        return _loha(adapter).scaled(adapter.scale)
    if adapter.algorithm == "LoKr":
        return _lokr(adapter).scaled(adapter.scale)
    assert adapter.algorithm == "full", adapter.algorithm
    return Whole(t[DIFF].flatten(1))


def delta_of_factors(down: torch.Tensor, up: torch.Tensor) -> LowRank | Adapter:
    """Factors without alpha as a concept has them: those of a larger convolution as a file's.

    down: (rank, in) or (rank, in, rows, columns); up: (out, rank) or (out, rank, 1, 1).
    """
    if set(down.shape[2:]) | set(up.shape[2:]) <= {1}:
        return LowRank(down, up)
    return Adapter("LoRA", {DOWN: down, UP: up})


def factors_of(delta: Delta | Adapter) -> LowRank | None:
    """The inverse of `delta_of_factors`, a larger convolution's `down` with its kernel; None for a
    delta of another kind or with an alpha."""
    if isinstance(delta, Adapter) and set(delta.tensors) == {DOWN, UP}:
        return LowRank(delta.tensors[DOWN], delta.tensors[UP])
    return delta if isinstance(delta, LowRank) else None


def _loha(adapter: Adapter) -> Delta:
    a1, b1, a2, b2 = (adapter.tensors[end].float() for end in HADA)
    if HADA_TUCKER[0] not in adapter.tensors:
        return hadamard(LowRank(b1, a1), LowRank(b2, a2))
    cores = (adapter.tensors[end].float() for end in HADA_TUCKER)
    one, other = (_tucker(t, b, a) for t, b, a in zip(cores, (b1, b2), (a1, a2), strict=True))
    return Whole(one * other)


def _lokr(adapter: Adapter) -> Kronecker:
    t = adapter.tensors
    left, right = t.get(".lokr_w1"), t.get(".lokr_w2")
    if left is None:
        left = t[".lokr_w1_a"].float() @ t[".lokr_w1_b"].float()
    if right is None:
        a, b = t[".lokr_w2_a"].float(), t[".lokr_w2_b"].float()
        core = t.get(".lokr_t2")
        right = a @ b.flatten(1) if core is None else _tucker(core.float(), b, a)
    return Kronecker(left, right.flatten(1))


def _tucker(core: torch.Tensor, down: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """core (r, r, rows, columns), down (r, in), up (r, out) -> (out, in * rows * columns)."""
    return torch.einsum("ijyx,jn,im->mnyx", core, down, up).flatten(1)
