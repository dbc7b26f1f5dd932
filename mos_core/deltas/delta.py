"""What every kind of delta can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields, replace
from typing import Any

import torch


class Delta(ABC):
    """A delta of one linear layer or convolution. Frozen; its tensors are never written to.

    For a convolution, *in* counts channels times the kernel's cells, and rows are unfolded patches.
    """

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

    def to(self, device, dtype: torch.dtype) -> Delta:
        """The same with its tensors on a device, in a dtype."""
        there: dict[str, Any] = {}
        for part in fields(self):  # type: ignore[arg-type]
            value = getattr(self, part.name)
            if isinstance(value, torch.Tensor):  # a copy of an inference tensor is an ordinary one
                there[part.name] = value.to(device, dtype, copy=value.is_inference())
            elif isinstance(value, Delta):
                there[part.name] = value.to(device, dtype)
        return replace(self, **there)  # type: ignore[type-var]


def times_strength(tensor: torch.Tensor, strength: float) -> torch.Tensor:
    """`strength * tensor`, rounded no more than float32 rounds: float16 factors stay exact."""
    return tensor * strength if tensor.dtype == torch.float64 else tensor.float() * strength
