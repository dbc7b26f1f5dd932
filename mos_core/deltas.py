"""What is added to a weight: one class per kind, the same few operations for all.

`delta` (out, in) is what a layer's weight W0 gets: `W = W0 + delta`. A method never asks of which
kind a delta is: training and injection put rows through it (`on_rows`), fusion multiplies it with
Gram matrices (`times`), merging and saving ask for the whole (`matrix`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F


class Delta(ABC):
    """A delta of one linear layer or 1x1 convolution. Frozen; its tensors are never written to."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(out, in) of the weight that it belongs to."""

    @property
    @abstractmethod
    def rank(self) -> int:
        """Of its factors; min(out, in) where it has none."""

    @abstractmethod
    def matrix(self) -> torch.Tensor:
        """(out, in), float32."""

    @abstractmethod
    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) -> `x delta^T` (..., out), in x's dtype and on its device."""

    @abstractmethod
    def times(self, gram: torch.Tensor) -> torch.Tensor:
        """gram (in, k) -> `delta gram` (out, k), in gram's dtype and on its device."""

    @abstractmethod
    def scaled(self, strength: float) -> Delta:
        """`strength * delta`."""

    @abstractmethod
    def take(self, start: int, length: int) -> Delta:
        """The delta of `length` output rows from `start` on."""


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
        return self if strength == 1 else replace(self, up=self.up * strength)

    def take(self, start: int, length: int) -> LowRank:
        return replace(self, up=self.up.narrow(0, start, length))


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
        return self if strength == 1 else Whole(self.full * strength)

    def take(self, start: int, length: int) -> Whole:
        return Whole(self.full.narrow(0, start, length))
