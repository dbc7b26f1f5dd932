"""Deltas that are a Kronecker product (LoKr)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .delta import Delta, times_strength
from .whole import Whole


@dataclass(frozen=True, eq=False)
class Kronecker(Delta):
    """`delta = kron(left, right)`, applied by reshaping: never as a whole matrix.

    left: (o1, i1), right: (o2, i2); the weight is (o1 o2, i1 i2).
    """

    left: torch.Tensor
    right: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        (o1, i1), (o2, i2) = self.left.shape, self.right.shape
        return o1 * o2, i1 * i2

    @property
    def rank(self) -> int:
        return min(self.left.shape) * min(self.right.shape)

    def matrix(self) -> torch.Tensor:
        return torch.kron(self.left.float(), self.right.float())

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        parts = x.unflatten(-1, (self.left.shape[1], self.right.shape[1]))  # (..., i1, i2)
        return (self.left.to(x) @ (parts @ self.right.to(x).T)).flatten(-2)

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        return self.on_rows(gram.T).T

    def scaled(self, strength: float) -> Kronecker:
        if strength == 1:
            return self
        return Kronecker(times_strength(self.left, strength), self.right)

    def take(self, start: int, length: int) -> Whole:
        return Whole(self.matrix().narrow(0, start, length))
