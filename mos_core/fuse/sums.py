"""The sums from which a layer is fused; they do not grow with the number of rows or concepts.

Gradient fusion (Mix-of-Show, eq. 5) asks, per layer, for the one weight that does to each concept's
inputs what the concept's own weight does: min_W sum_i || X_i (W0 + dW_i)^T - X_i W^T ||^2. In
D = W - W0 this is sum_i || X_i (dW_i - D)^T ||^2, which only needs G = sum_i X_i^T X_i,
R = sum_i dW_i X_i^T X_i and one number.
"""

from dataclasses import dataclass

import torch


class Gram:
    """X^T X of the rows that enter a layer, summed as they come.

    dtype: float64 where rows are few (text), float32 where they are many and the GPU is slow in
    float64; products are never taken in less than float32.
    """

    def __init__(self, dtype: torch.dtype = torch.float64):
        self.dtype = dtype
        self.matrix: torch.Tensor | None = None  # (in, in)
        self.rows = 0

    def add(self, rows: torch.Tensor) -> None:
        """rows: (n, in), any float dtype."""
        rows = rows.to(self.dtype)
        if self.matrix is None:
            self.matrix = torch.zeros(
                rows.shape[1], rows.shape[1], dtype=self.dtype, device=rows.device
            )
        self.matrix.addmm_(rows.T, rows)
        self.rows += rows.shape[0]


@dataclass
class LayerSums:
    """G, R and the rest of the objective of one layer, float64."""

    gram: torch.Tensor  # (in, in), sum_i X_i^T X_i
    cross: torch.Tensor  # (out, in), sum_i dW_i X_i^T X_i
    energy: float  # sum_i || X_i dW_i^T ||^2
    rows: int
    noise: float  # relative rounding error of the gram matrix

    @classmethod
    def empty(cls, out: int, width: int, device) -> "LayerSums":
        def zeros(rows: int) -> torch.Tensor:
            return torch.zeros(rows, width, dtype=torch.float64, device=device)

        return cls(zeros(width), zeros(out), 0.0, 0, torch.finfo(torch.float64).eps)

    def add(self, gram: Gram, delta: torch.Tensor | None) -> None:
        """One concept's rows; delta: (out, in), None for a concept that leaves the layer alone."""
        assert gram.matrix is not None
        matrix = gram.matrix.to(self.gram)
        self.gram += matrix
        self.rows += gram.rows
        self.noise = max(self.noise, torch.finfo(gram.dtype).eps)
        if delta is not None:
            mapped = delta.to(self.gram) @ matrix
            self.cross += mapped
            self.energy += (mapped * delta.to(self.gram)).sum().item()

    def add_anchor(self, gram: Gram, weight: float) -> None:
        """The base model's own rows with target W0, as one more concept of this weight."""
        assert gram.matrix is not None
        self.gram += weight * gram.matrix.to(self.gram)

    def loss(self, delta: torch.Tensor) -> float:
        """Mean squared error per row and output of W0 + delta, (out, in), against the targets."""
        delta = delta.to(self.gram)
        error = self.energy - 2 * (delta * self.cross).sum() + ((delta @ self.gram) * delta).sum()
        return max(error.item(), 0.0) / max(self.rows * delta.shape[0], 1)
