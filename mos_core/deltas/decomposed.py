"""Deltas that scale the base weight's rows as well (DoRA per output)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from .delta import Delta, times_strength


@dataclass(frozen=True, eq=False)
class Decomposed(Delta):
    """`delta = a W0 + b inner`, row by row (weight-decomposed low-rank adaptation).

    With W = s (W0 + inner) per output row: a = s - 1, b = s (arXiv 2402.09353, equation 5).

    weight: W0 (out, in) of the base model, not copied. of_weight, of_inner: a and b, (out,).
    """

    weight: torch.Tensor
    of_weight: torch.Tensor
    of_inner: torch.Tensor
    inner: Delta

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def rank(self) -> int:
        return min(self.shape)

    def matrix(self) -> torch.Tensor:
        base = self.of_weight.float()[:, None] * self.weight.flatten(1).float()
        return base + self.of_inner.float()[:, None] * self.inner.matrix().to(base)

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        base = torch.nn.functional.linear(x, self.weight.flatten(1).to(x))
        return base * self.of_weight.to(x) + self.inner.on_rows(x) * self.of_inner.to(x)

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        base = self.of_weight.to(gram)[:, None] * (self.weight.flatten(1).to(gram) @ gram)
        return base + self.of_inner.to(gram)[:, None] * self.inner.times(gram)

    def scaled(self, strength: float) -> Decomposed:
        if strength == 1:
            return self
        a, b = (times_strength(t, strength) for t in (self.of_weight, self.of_inner))
        return replace(self, of_weight=a, of_inner=b)

    def take(self, start: int, length: int) -> Decomposed:
        weight, a, b = (
            t.narrow(0, start, length) for t in (self.weight, self.of_weight, self.of_inner)
        )
        return Decomposed(weight, a, b, self.inner.take(start, length))
