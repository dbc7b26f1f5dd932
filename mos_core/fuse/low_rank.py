"""A fusion's whole-weight deltas as factors of low rank, and what that truncation loses."""

from collections.abc import Mapping

import torch

from ..deltas import LowRank
from .report import STAGES, stage_of


def factorise(delta: torch.Tensor, rank: int) -> tuple[LowRank, float]:
    """The nearest delta of that rank (Eckart-Young) and the share of the squared norm that is lost.

    delta: (out, in) or (out, in, rows, columns); the factors have the same number of dimensions,
    and `down` has the kernel. A rank above what the delta has changes nothing.
    """
    u, s, v = torch.linalg.svd(delta.flatten(1).double(), full_matrices=False)
    kept = min(rank, len(s))
    root = s[:kept].sqrt()
    up, down = u[:, :kept] * root, root[:, None] * v[:kept]
    total = s.square().sum()
    lost = (s[kept:].square().sum() / total).item() if bool(total > 0) else 0.0
    ones = (1 for _ in delta.shape[2:])
    return LowRank(
        down.float().unflatten(1, delta.shape[1:]).contiguous(),
        up.float().reshape(*up.shape, *ones).contiguous(),
    ), lost


def describe_truncation(lost: Mapping[str, float], rank: int, worst: int = 5) -> str:
    """lost: module -> share of the squared norm of its delta."""
    lines = [f"rank {rank}: share of the change that is lost (squared norm)"]
    for stage in STAGES.values():
        shares = [share for module, share in lost.items() if stage_of(module) == stage]
        if shares:
            mean = sum(shares) / len(shares)
            lines.append(f"  {stage} ({len(shares)} layers): {mean:.2%} on average")
    lines.append("layers that lose most")
    for module in sorted(lost, key=lambda m: lost[m], reverse=True)[:worst]:
        lines.append(f"  {lost[module]:.1%}  {module}")
    return "\n".join(lines)
