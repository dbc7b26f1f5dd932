"""Deltas of convolutions larger than one cell, and of layers' biases."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F

from .delta import Delta, times_strength
from .low_rank import LowRank


@dataclass(frozen=True, eq=False)
class Convolution(Delta):
    """A delta of a convolution's kernel.

    inner: its delta on unfolded patches, (out, in * rows * columns). kernel: (rows, columns).
    """

    inner: Delta
    kernel: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def rank(self) -> int:
        return self.inner.rank

    def matrix(self) -> torch.Tensor:
        return self.inner.matrix()

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner.on_rows(x)

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        return self.inner.times(gram)

    def scaled(self, strength: float) -> Convolution:
        return replace(self, inner=self.inner.scaled(strength))

    def take(self, start: int, length: int) -> Convolution:
        return replace(self, inner=self.inner.take(start, length))

    def on_map(self, x: torch.Tensor, module) -> torch.Tensor:
        """x (batch, in, rows, columns) -> what is added, (batch, out, rows, columns).

        module: the convolution, for its stride, padding and dilation.
        """
        how = {"stride": module.stride, "padding": module.padding, "dilation": module.dilation}
        if isinstance(self.inner, LowRank):
            thin = F.conv2d(x, self._kernel(self.inner.down).to(x), **how)
            return F.conv2d(thin, self.inner.up.flatten(1)[..., None, None].to(x))
        return F.conv2d(x, self._kernel(self.matrix()).to(x), **how)

    def _kernel(self, flat: torch.Tensor) -> torch.Tensor:
        return flat.flatten(1).unflatten(1, (-1, *self.kernel))


@dataclass(frozen=True, eq=False)
class WithBias(Delta):
    """A delta of a layer's weight and of its bias, (out,), which is no part of the matrix.

    inner: the weight's; None where the bias alone changes, and then width is the layer's input.
    """

    inner: Delta | None
    bias: torch.Tensor
    width: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bias.shape[0], self.width

    @property
    def rank(self) -> int:
        return 0 if self.inner is None else self.inner.rank

    def matrix(self) -> torch.Tensor:
        if self.inner is None:
            return torch.zeros(self.shape, device=self.bias.device)
        return self.inner.matrix()

    def on_rows(self, x: torch.Tensor) -> torch.Tensor:
        added = self.bias.to(x).expand(*x.shape[:-1], -1)
        return added if self.inner is None else self.inner.on_rows(x) + added

    def times(self, gram: torch.Tensor) -> torch.Tensor:
        if self.inner is None:
            return gram.new_zeros(self.bias.shape[0], gram.shape[1])
        return self.inner.times(gram)

    def scaled(self, strength: float) -> WithBias:
        inner = None if self.inner is None else self.inner.scaled(strength)
        return replace(self, inner=inner, bias=times_strength(self.bias, strength))

    def take(self, start: int, length: int) -> WithBias:
        inner = None if self.inner is None else self.inner.take(start, length)
        return replace(self, inner=inner, bias=self.bias.narrow(0, start, length))

    def on_map(self, x: torch.Tensor, module) -> torch.Tensor:
        """As Convolution.on_map."""
        bias = self.bias.to(x)[:, None, None]
        if isinstance(self.inner, Convolution):
            return self.inner.on_map(x, module) + bias
        if self.inner is None:  # of any convolution: only the size of what it puts out counts
            strides = [range(0, n, s) for n, s in zip(x.shape[-2:], module.stride, strict=True)]
            return bias.expand(x.shape[0], -1, *map(len, strides))
        return self.on_rows(x.movedim(1, -1)).movedim(-1, 1)  # a 1x1 convolution
