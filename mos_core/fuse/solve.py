"""Three ways from a layer's sums to its fused delta D = W - W0, each (out, in)."""

from collections.abc import Sequence

import torch

from ..records import LowRank
from .sums import LayerSums

# The public code's settings (Mix-of-Show): steps for text and cross-attention keys and values /
# for all other layers; history.
LBFGS_STEPS, LBFGS_STEPS_SPATIAL, LBFGS_HISTORY = 500, 50, 25


def solve_exact(sums: LayerSums, ridge: float = 0.0) -> torch.Tensor:
    """The minimiser nearest to W0: D = R (G + ridge I)^+, in float64; see inverse_of."""
    return sums.cross @ inverse_of(sums, ridge)


def inverse_of(sums: LayerSums, ridge: float = 0.0, cutoff: float = 1e-12) -> torch.Tensor:
    """(G + ridge I)^+, (in, in), the same for all modules with the same input.

    ridge: relative to the mean eigenvalue of the concepts' G; holds on to W0 along directions in
    which the rows hardly vary. cutoff: eigenvalues of G at or below this share of the largest
    (singular values of X: its root) count as zero; never below the rounding noise of G. An anchor
    in the sums joins G.
    """
    matrix = with_ridge(sums, ridge)
    if ridge > 0:
        factor, failed = torch.linalg.cholesky_ex(matrix)
        if not bool(failed):
            return torch.cholesky_inverse(factor)
    return pseudo_inverse(matrix, sums.inputs.noise, cutoff)


def with_ridge(sums: LayerSums, ridge: float) -> torch.Tensor:
    """(in, in): G and the anchor, the ridge on the diagonal."""
    damped = sums.damped.clone()
    damped.diagonal().add_(ridge * sums.inputs.gram.diagonal().mean())
    return damped


def pseudo_inverse(matrix: torch.Tensor, noise: float, cutoff: float) -> torch.Tensor:
    """Of a symmetric matrix without negative eigenvalues (but for rounding)."""
    values, vectors = torch.linalg.eigh(matrix)  # ascending
    smallest = values[-1] * max(cutoff, matrix.shape[0] * noise)
    inverse = torch.where(values > smallest, values.reciprocal(), torch.zeros_like(values))
    return (vectors * inverse) @ vectors.T


def solve_lbfgs(sums: LayerSums, steps: int, ridge: float = 0.0) -> torch.Tensor:
    """The published solver: L-BFGS from W0 with strong Wolfe line search.

    It minimises the same mean squared error; value and gradient come from the sums instead of
    from stored rows.
    """
    scale = 1.0 / (sums.inputs.rows * sums.cross.shape[0])
    with torch.inference_mode(False), torch.enable_grad():
        gram, cross = with_ridge(sums, ridge).clone(), sums.cross.clone()
        delta = torch.zeros_like(cross, requires_grad=True)
        optimizer = torch.optim.LBFGS(
            [delta],
            lr=1.0,
            max_iter=steps,
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
        return delta.detach()


def solve_sum(sums: LayerSums, asked: Sequence[tuple[float, LowRank | None]]) -> torch.Tensor:
    """Plain weighted merge, for comparison: D = sum_i strength_i dW_i."""
    merged = torch.zeros_like(sums.cross)
    for strength, pair in asked:
        if pair is not None:
            merged += strength * pair.matrix().to(merged)
    return merged
