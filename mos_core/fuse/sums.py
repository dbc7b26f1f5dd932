"""The sums from which a layer is fused; they do not grow with the number of rows or concepts.

Gradient fusion (Mix-of-Show, eq. 5) asks, per layer, for the one weight that does to each concept's
inputs what the concept's own weight does: min_W sum_i || X_i (W0 + dW_i)^T - X_i W^T ||^2. In
D = W - W0 this is sum_i || X_i (dW_i - D)^T ||^2, which only needs G = sum_i X_i^T X_i,
R = sum_i dW_i X_i^T X_i and one number.
"""

from dataclasses import dataclass, field

import torch

from ..deltas import Delta
from .sketch import SKETCH_ROWS, sketch_of

TOTAL = torch.float64  # of every sum
BLOCK = 4096  # rows of one product; the products are added up in float64


class Gram:
    """X^T X of the rows that enter a layer, summed as they come, and a sketch of the rows.

    dtype: of the products: float64 where rows are few (text), float32 where they are many and the
    GPU is slow in float64. device: where the sums live, None for the rows' own; it must know
    float64 (Apple's GPU does not).
    """

    def __init__(self, dtype: torch.dtype = TOTAL, device: torch.device | None = None):
        self.dtype = dtype
        self.device = device
        self.matrix: torch.Tensor | None = None  # (in, in), float64
        self.sketch: torch.Tensor | None = None  # (SKETCH_ROWS, in)
        self.rows = 0

    def add(self, rows: torch.Tensor) -> None:
        """rows: (n, in), any float dtype."""
        device = self.device or rows.device
        if self.matrix is None or self.sketch is None:
            width = rows.shape[1]
            self.matrix = torch.zeros(width, width, dtype=TOTAL, device=device)
            self.sketch = torch.zeros(SKETCH_ROWS, width, dtype=torch.float32, device=device)
        rows = rows.to(device, self.dtype) if self.dtype == TOTAL else rows.to(self.dtype)
        for block in rows.split(BLOCK):
            if block.dtype == TOTAL:
                self.matrix.addmm_(block.T, block)
            else:
                self.matrix += (block.T @ block).to(self.matrix)
        self.sketch += sketch_of(rows, self.rows).to(self.sketch)
        self.rows += rows.shape[0]


@dataclass
class InputSums:
    """What all modules with the same input share."""

    gram: torch.Tensor  # (in, in), sum_i X_i^T X_i, float64
    rows: int = 0
    concepts: int = 0
    noise: float = torch.finfo(TOTAL).eps  # rounding error of the gram matrix, of its largest value
    anchor: torch.Tensor | None = None  # (in, in), the base model's own rows, weighted
    sketches: list[torch.Tensor] = field(default_factory=list)  # one a concept, CPU

    def add(self, gram: Gram) -> torch.Tensor:
        """One concept's rows -> their X^T X in float64."""
        assert gram.matrix is not None
        assert gram.sketch is not None
        matrix = gram.matrix.to(self.gram)
        self.gram += matrix
        self.rows += gram.rows
        self.concepts += 1
        self.noise = max(self.noise, torch.finfo(gram.dtype).eps)
        self.sketches.append(gram.sketch.to("cpu", torch.bfloat16))
        return matrix

    def add_anchor(self, gram: Gram, weight: float) -> None:
        """The base model's own rows with target W0; weight 1: as one more concept."""
        assert gram.matrix is not None
        share = self.rows / max(self.concepts, 1) / gram.rows
        self.anchor = gram.matrix.to(self.gram) * (weight * share)
        self.noise = max(self.noise, torch.finfo(gram.dtype).eps)


@dataclass
class LayerSums:
    """G, R and the rest of the objective of one layer, float64."""

    inputs: InputSums
    cross: torch.Tensor  # (out, in), sum_i dW_i X_i^T X_i
    energy: float = 0.0  # sum_i || X_i dW_i^T ||^2

    @classmethod
    def empty(cls, out: int, width: int, device) -> "LayerSums":
        """Sums of nothing, for a weight of (out, width)."""

        def zeros(rows: int) -> torch.Tensor:
            return torch.zeros(rows, width, dtype=TOTAL, device=device)

        return cls(InputSums(zeros(width)), zeros(out))

    @property
    def damped(self) -> torch.Tensor:
        """(in, in): what is to be inverted, the concepts' G and the anchor's."""
        inputs = self.inputs
        return inputs.gram if inputs.anchor is None else inputs.gram + inputs.anchor

    def add(self, gram: Gram, delta: Delta | None) -> None:
        """One concept's rows and what it changes, None for one that leaves the layer alone."""
        self.add_target(self.inputs.add(gram), delta)

    def add_target(self, matrix: torch.Tensor, delta: Delta | None) -> None:
        """What a concept asks on rows that are in the inputs' sums already; matrix: their G.

        A delta of low rank is never multiplied out: U D X^T X costs as much as its rank.
        """
        if delta is not None:
            mapped = delta.times(matrix)  # (out, in)
            self.cross += mapped
            self.energy += delta.times(mapped.T).diagonal().sum().item()

    def loss(self, delta: torch.Tensor) -> float:
        """Mean squared error per row and output of W0 + delta, (out, in), against the concepts'
        targets."""
        delta, gram = delta.to(self.cross), self.inputs.gram
        error = self.energy - 2 * (delta * self.cross).sum() + ((delta @ gram) * delta).sum()
        return max(error.item(), 0.0) / max(self.inputs.rows * delta.shape[0], 1)
