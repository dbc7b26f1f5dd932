"""Refinement of a fusion, end to end: what the layers' sums cannot see.

Gradient fusion asks every layer alone to do to the concepts' own features what the concepts' own
weights do. The fused model's features are not those: what one layer misses, the next one sees.
Here the whole model is asked, for noised pictures of each concept, for the noise that the concept's
own model predicts: min_D sum_i sum_t || eps_D(x_t, t, c_i) - eps_i(x_t, t, c_i) ||^2, from the
layers' solution on, by Adam (Kingma and Ba 2015). The papers have no such step.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

RATE = 1e-3
BETAS = (0.9, 0.99)
WARM_UP = 10  # steps
BATCH = 4  # rows a step
CHECKS = 40  # rows of each subject that are not learnt from


@dataclass(frozen=True)
class DistillationSet:
    """What a teacher predicts for noised pictures of its own.

    latents, targets: (n, channels, h, w), noised latents and the predicted noise; sigmas: (n,);
    all in the model's scale; prompts: n; weight: how much a row counts.
    """

    name: str
    latents: torch.Tensor
    sigmas: torch.Tensor
    prompts: tuple[str, ...]
    targets: torch.Tensor
    weight: float = 1.0

    def __getitem__(self, rows: slice) -> "DistillationSet":
        return DistillationSet(
            self.name,
            self.latents[rows],
            self.sigmas[rows],
            self.prompts[rows],
            self.targets[rows],
            self.weight,
        )

    def __len__(self) -> int:
        return len(self.prompts)


Key = TypeVar("Key")  # of a layer
Scale = Callable[[torch.Tensor], torch.Tensor]  # sigmas (n,) -> (n,)
# (latents, sigmas, prompts) -> predicted noise, (n, channels, h, w) float32
Predict = Callable[[torch.Tensor, torch.Tensor, Sequence[str]], torch.Tensor]


def rows_needed(steps: int) -> int:
    """Rows of each subject, so that none is learnt from twice."""
    return CHECKS + steps * BATCH


def refine(
    predict: Predict,
    deltas: Mapping[Key, torch.Tensor],
    sets: Sequence[DistillationSet],
    steps: int,
    seed: int,
    on_step: Callable[[str], None],
    half: bool = False,
) -> dict[str, tuple[float, float]]:
    """Changes the deltas in place; they stay as they are if that would not lower the error.

    deltas: float32 leaves that `predict` depends on, (out, in). sets: rows_needed(steps) of each
    subject. steps: for each of them. on_step(what was done): after every step and check; may raise.
    half: gradients pass float16. Returns each subject's mean squared error on rows that were not
    learnt from, before and after.
    """
    sets = sorted(sets, key=lambda each: each.name)  # whatever the concepts' order
    held, learnt = [each[:CHECKS] for each in sets], [each[CHECKS:] for each in sets]
    start = {name: delta.detach().clone() for name, delta in deltas.items()}
    before = check(predict, held, on_step)
    scale = scale_of(held, before)
    descend(predict, deltas, learnt, scale, steps * len(learnt), seed, on_step, half)
    after = check(predict, held, on_step)
    if not total(held, after, scale) < total(held, before, scale):  # also if not finite
        for name, delta in deltas.items():
            delta.detach().copy_(start[name])
        after = before
    return {
        each.name: (b.mean().item(), a.mean().item())
        for each, b, a in zip(held, before, after, strict=True)
    }


def descend(
    predict: Predict,
    deltas: Mapping[Key, torch.Tensor],
    sets: Sequence[DistillationSet],
    scale: Scale,
    steps: int,
    seed: int,
    on_step: Callable[[str], None],
    half: bool,
) -> None:
    """Adam over all rows of the sets, in an order drawn from `seed`; changes the deltas in place.

    scale: what a row's error is divided by, from its sigma; steps: of BATCH rows; on_step(what was
    done): after each, may raise; half: gradients pass float16, so the loss is scaled.
    """
    latents, sigmas, targets = (
        torch.cat([getattr(each, part) for each in sets])
        for part in ("latents", "sigmas", "targets")
    )
    prompts = [prompt for each in sets for prompt in each.prompts]
    weights = torch.cat([each.weight / scale(each.sigmas) for each in sets])
    leaves = list(deltas.values())
    optimizer = torch.optim.Adam(leaves, lr=RATE, betas=BETAS)
    scaler = torch.amp.GradScaler(leaves[0].device.type, enabled=half)
    order = torch.randperm(len(latents), generator=torch.Generator().manual_seed(seed)).tolist()
    for step in range(steps):
        rows = order[step * BATCH : (step + 1) * BATCH]
        for group in optimizer.param_groups:
            group["lr"] = RATE * share_of_rate(step, steps)
        found = predict(latents[rows], sigmas[rows], [prompts[row] for row in rows])
        errors = (found - targets[rows].to(found)).square().flatten(1).mean(1)
        loss = (errors * weights[rows].to(errors)).mean()
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        on_step(f"refining: step {step + 1} of {steps}")


def share_of_rate(step: int, steps: int) -> float:
    """Of RATE: a short warm-up, then down to 0 along half a cosine."""
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


@torch.no_grad()
def check(
    predict: Predict, sets: Sequence[DistillationSet], on_step: Callable[[str], None]
) -> list[torch.Tensor]:
    """The squared error of every row, (n,), of each of the sets."""
    errors = []
    for each in sets:
        parts = [each[first : first + BATCH] for first in range(0, len(each), BATCH)]
        found = [predict(part.latents, part.sigmas, part.prompts).cpu() for part in parts]
        errors.append((torch.cat(found) - each.targets).square().flatten(1).mean(1))
        on_step(f"checking {each.name}")
    return errors


def scale_of(sets: Sequence[DistillationSet], errors: Sequence[torch.Tensor]) -> Scale:
    """sigmas -> about the root of the mean squared error there, (n,).

    Errors at high noise, where it is decided who is drawn, are a hundred times smaller than at low
    noise. Divided by this, half of the difference is left, which gave better pictures than all or
    none of it. A parabola is fitted to the logarithms.
    """
    x = torch.cat([each.sigmas for each in sets])
    y = torch.cat(list(errors)).clamp(min=1e-30).log().double()
    fit = torch.linalg.lstsq(powers(x), y[:, None]).solution

    def scale(sigmas: torch.Tensor) -> torch.Tensor:
        return (powers(sigmas) @ fit / 2).exp()[:, 0].float()

    return scale


def powers(sigmas: torch.Tensor) -> torch.Tensor:
    """(n, 3), of log(1 + sigma)."""
    x = sigmas.double().log1p()
    return torch.stack([torch.ones_like(x), x, x * x], 1)


def total(sets: Sequence[DistillationSet], errors: Sequence[torch.Tensor], scale: Scale) -> float:
    """What is minimised."""
    parts = [
        (each.weight * error / scale(each.sigmas)).mean()
        for each, error in zip(sets, errors, strict=True)
    ]
    return torch.stack(parts).sum().item()
