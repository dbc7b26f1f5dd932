"""Deltas that are a product of two thin factors."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .delta import Delta, times_strength
from .whole import Whole

OVERSAMPLE, ITERATIONS = 16, 4  # of the subspace iteration


@dataclass(frozen=True, eq=False)
class LowRank(Delta):
    """`delta = up @ down`, no alpha.

    down: (rank, in) or (rank, in, 1, 1); up: (out, rank) or (out, rank, 1, 1).
    """

    down: torch.Tensor
    up: torch.Tensor

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down.shape[1]

    def matrix(self) -> torch.Tensor:
        return self.up.flatten(1).float() @ self.down.flatten(1).float()

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(F.linear(x, self.down.flatten(1).to(x)), self.up.flatten(1).to(x))

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        return self.up.flatten(1).to(gram) @ (self.down.flatten(1).to(gram) @ gram)

    def scaled(self, strength: float) -> LowRank:
        return self if strength == 1 else replace(self, up=times_strength(self.up, strength))

    def take(self, start: int, length: int) -> LowRank:
        return replace(self, up=self.up.narrow(0, start, length))


def hadamard(one: LowRank, other: LowRank) -> Delta:
    """The elementwise product of two low-rank deltas (LoHa), in the form that takes less room.

    `(a b) * (c d)` has rank r1 r2: its factors are the row-wise Khatri-Rao products of a and c, and
    the column-wise ones of b and d (LyCORIS; FedPara, arXiv 2108.06098, proposition 1).
    """
    out, into = one.shape
    rank = one.rank * other.rank
    if rank * (out + into) >= out * into:
        return Whole(one.matrix() * other.matrix())
    up = torch.einsum("oi,oj->oij", one.up.float(), other.up.float()).flatten(1)
    down = torch.einsum("ik,jk->ijk", one.down.float(), other.down.float()).flatten(0, 1)
    return LowRank(down, up)


def leading_svd(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, ...]:
    """u (out, k), values (k,), v (k, in), at least the first `rank` of the singular values.

    Large matrices by subspace iteration (Halko, Martinsson, Tropp 2011, algorithm 4.4).
    """
    wide = rank + OVERSAMPLE
    if min(matrix.shape) <= 4 * wide:
        u, values, v = torch.linalg.svd(matrix, full_matrices=False)
        return u, values, v
    generator = torch.Generator(matrix.device).manual_seed(0)
    start = torch.randn(matrix.shape[1], wide, generator=generator, device=matrix.device)
    q = torch.linalg.qr(matrix @ start)[0]
    for _ in range(ITERATIONS):
        q = torch.linalg.qr(matrix @ torch.linalg.qr(matrix.T @ q)[0])[0]
    u, values, v = torch.linalg.svd(q.T @ matrix, full_matrices=False)
    return q @ u, values, v


def svd_of_product(pair: LowRank) -> tuple[torch.Tensor, ...]:
    """u (out, r), values (r,), v (r, in), float64, of `up down`, which is never built.

    From the small core: up = Q R, down^T = P S, so `up down = Q svd(R S^T) P^T`.
    """
    q, r = torch.linalg.qr(pair.up.flatten(1).double())
    p, s = torch.linalg.qr(pair.down.flatten(1).double().T)
    u, values, v = torch.linalg.svd(r @ s.T, full_matrices=False)
    return q @ u, values, v @ p.T


def cut(delta: Delta, rank: int) -> tuple[Delta, float]:
    """The nearest delta of that rank (Eckart-Young), and the share of the squared norm it keeps.

    A delta that is no wider than that stays as it is and keeps 1.
    """
    if delta.rank <= rank:
        return delta, 1.0
    if isinstance(delta, LowRank):
        u, values, v = svd_of_product(delta)
    else:
        u, values, v = leading_svd(delta.matrix(), rank)
    total = values.square().sum() if isinstance(delta, LowRank) else delta.matrix().square().sum()
    kept = (values[:rank].square().sum() / total).item() if bool(total > 0) else 1.0
    root = values[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    return LowRank(down.float().contiguous(), up.float().contiguous()), kept
