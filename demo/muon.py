"""Muon for the kernels of small networks, AdamW for everything else.

Muon (Jordan et al. 2024): the step of a matrix is its momentum with all singular values brought
near one by five Newton-Schulz iterations. Scaled as in Liu et al. 2025, so that AdamW's rates fit.
"""

from collections import defaultdict

import torch

QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonal(stack: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """(n, rows, columns) -> the same with singular values near one, each matrix by itself."""
    a, b, c = QUINTIC
    x = stack.mT if (tall := stack.shape[-2] > stack.shape[-1]) else stack
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """For parameters of two or more dimensions: (out, in, ...) is taken as (out, in * ...).
    dtype: of the iterations, for which bfloat16 is enough."""

    def __init__(self, parameters, lr, momentum=0.95, weight_decay=0.0, dtype=torch.float32):
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """One step; parameters of one shape are brought to their singular values together."""
        for group in self.param_groups:
            shapes = defaultdict(list)
            for p in group["params"]:
                if p.grad is not None:
                    shapes[p.shape].append(p)
            for parameters in shapes.values():
                self._step_of(parameters, group)

    def _step_of(self, parameters: list[torch.Tensor], group: dict) -> None:
        steps = []
        for p in parameters:
            memory = self.state[p].setdefault("momentum", torch.zeros_like(p))
            memory.lerp_(p.grad, 1 - group["momentum"])
            steps.append(p.grad.lerp(memory, group["momentum"]).flatten(1))
        found = orthogonal(torch.stack(steps).to(self.dtype)).float()
        rate = group["lr"] * 0.2 * max(found.shape[1:]) ** 0.5
        for p, step in zip(parameters, found, strict=True):
            p.mul_(1 - group["lr"] * group["decay"]).sub_(step.reshape(p.shape), alpha=rate)


def optimizers_for(
    parameters: list, lr: float, decay: float = 0.01, dtype: torch.dtype = torch.float32
) -> list:
    """Muon for hidden kernels (two or more dimensions, none below 16 wide), AdamW for the rest."""
    kernels = [p for p in parameters if p.ndim > 1 and min(p.shape[:2]) >= 16]
    chosen = {id(p) for p in kernels}
    rest = [p for p in parameters if id(p) not in chosen]
    return [
        Muon(kernels, lr, weight_decay=decay, dtype=dtype),
        torch.optim.AdamW(rest, lr, betas=(0.9, 0.99), weight_decay=decay),
    ]
