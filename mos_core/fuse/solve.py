"""Three ways from a layer's sums to its fused delta D = W - W0, each (out, in).

SOLVERS lists them; a new one is a function of the same signature and a line there.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from ..deltas import Delta
from .sums import LayerSums

# The public code's settings (Mix-of-Show): steps for text and cross-attention keys and values /
# for all other layers; history.
LBFGS_STEPS, LBFGS_STEPS_SPATIAL, LBFGS_HISTORY = 500, 50, 25
CUTOFF = 1e-12  # eigenvalues of G at or below this share of the largest are none


@dataclass(frozen=True)
class SolveOptions:
    """ridge: relative to the mean eigenvalue of the concepts' G; holds on to W0 along directions
    in which the rows hardly vary. steps: of an iterative solver. inverse: (G + ridge I)^+ of this
    input, if it is known already."""

    ridge: float = 0.0
    steps: int = LBFGS_STEPS
    inverse: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Solution:
    """delta: (out, in), float64; inverse: (in, in) if delta is R times it, else None."""

    delta: torch.Tensor
    inverse: torch.Tensor | None = None


# (sums, what each concept asks for, options) -> solution
Solver = Callable[[LayerSums, Sequence[Delta | None], SolveOptions], Solution]


def solve_exact(
    sums: LayerSums, asked: Sequence[Delta | None] = (), options: SolveOptions = SolveOptions()
) -> Solution:
    """The minimiser nearest to W0: D = R (G + ridge I)^+, in float64; see inverse_of."""
    inverse = inverse_of(sums, options.ridge) if options.inverse is None else options.inverse
    return Solution(sums.cross @ inverse, inverse)


def inverse_of(sums: LayerSums, ridge: float = 0.0) -> torch.Tensor:
    """(G + ridge I)^+, (in, in), the same for all modules with the same input.

    Eigenvalues of G at or below CUTOFF or its own rounding noise, as shares of the largest, count
    as zero. An anchor in the sums joins G.
    """
    matrix = with_ridge(sums, ridge)
    if ridge > 0:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not bool(failed):
            return torch.cholesky_inverse(factor)
    return pseudo_inverse(matrix, max(CUTOFF, sums.inputs.noise))


def with_ridge(sums: LayerSums, ridge: float) -> torch.Tensor:
    """(in, in): G and the anchor, the ridge on the diagonal."""
    damped = sums.damped.clone()
    damped.diagonal().add_(ridge * sums.inputs.gram.diagonal().mean())
    return damped


def pseudo_inverse(matrix: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Of a symmetric matrix without negative eigenvalues (but for rounding)."""
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    kept = values > values[-1] * cutoff
    inverse = torch.where(kept, values.reciprocal(), torch.zeros_like(values))
    return (vectors * inverse) @ vectors.T


def solve_lbfgs(
    sums: LayerSums, asked: Sequence[Delta | None] = (), options: SolveOptions = SolveOptions()
) -> Solution:
    """The published solver: L-BFGS from W0 with strong Wolfe line search.

    It minimises the same mean squared error; value and gradient come from the sums instead of
    from stored rows.
    """
    scale = 1.0 / (sums.inputs.rows * sums.cross.shape[0])
    with torch.inference_mode(False), torch.enable_grad():
        gram, cross = with_ridge(sums, options.ridge).clone(), sums.cross.clone()
        delta = torch.zeros_like(cross, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [delta],
            lr=1.0,
            max_iter=options.steps,
            history_size=LBFGS_HISTORY,
            line_search_fn="strong_wolfe",
            tolerance_grad=1e-16,
            tolerance_change=1e-16,
        )

        def evaluate() -> torch.Tensor:
            optimizer.zero_grad()
            with torch.no_grad():
                mapped = delta @ gram
                loss = sums.energy + ((mapped - 2 * cross) * delta).sum()
                delta.grad = 2 * scale * (mapped - cross)
            return loss * scale

        optimizer.step(evaluate)
        return Solution(delta.detach())


def solve_sum(
    sums: LayerSums, asked: Sequence[Delta | None], options: SolveOptions = SolveOptions()
) -> Solution:
    """Plain weighted merge, for comparison: D = sum_i dW_i."""
    merged = torch.zeros_like(sums.cross)
    for delta in asked:
        if delta is not None:
            merged += delta.matrix().to(merged)
    return Solution(merged)


SOLVERS: dict[str, Solver] = {"exact": solve_exact, "lbfgs": solve_lbfgs, "sum": solve_sum}
