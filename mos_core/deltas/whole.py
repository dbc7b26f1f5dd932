"""Deltas that are a whole matrix."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .delta import Delta, times_strength


@dataclass(frozen=True, eq=False)
class Whole(Delta):
    """The delta itself, (out, in)."""

    full: torch.Tensor

    @property
    def shape(self) -> tuple[int, int]:
        return self.full.shape[0], self.full.shape[1]

    @property
    def rank(self) -> int:
        return min(self.shape)

    def matrix(self) -> torch.Tensor:
        return self.full.float()

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.full.to(x))

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        return self.full.to(gram) @ gram

    def scaled(self, strength: float) -> Whole:
        return self if strength == 1 else Whole(times_strength(self.full, strength))

    def take(self, start: int, length: int) -> Whole:
        return Whole(self.full.narrow(0, start, length))
