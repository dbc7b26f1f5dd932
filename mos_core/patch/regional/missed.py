"""What did not act in a sampling, where and why, as sentences for whoever switched it on."""

from collections.abc import Callable, Mapping

import torch

from ...compose.log import in_steps

Say = Callable[[str], None]
PROMPTS, ISOLATION, CONCEPTS = "The regions' prompts", "Isolation", "The concepts' LoRA"
WHY = (
    "another node on this MODEL merges, tiles or resizes the picture there, so that its cells "
    "cannot be told apart"
)


class Missed:
    """Notes of one sampling. layers: how many the model has."""

    def __init__(self, layers: int):
        self.layers = layers
        self.where: dict[str, set[int]] = {}
        self.steps: dict[str, set[int]] = {}

    def note(self, what: str, layer: int, options: Mapping) -> None:
        """`what` did not act in a layer (its running number). Waits for the device, which a run
        that misses nothing never does."""
        self.where.setdefault(what, set()).add(layer)
        step = step_of(options)
        if step is not None:
            self.steps.setdefault(what, set()).add(step)

    def sentences(self) -> tuple[str, ...]:
        return tuple(
            f"{what} did not act in {len(found)} of {self.layers} layers"
            f"{in_steps(self.steps.get(what, ()))}: {WHY}."
            for what, found in self.where.items()
        )


def step_of(options: Mapping) -> int | None:
    """The number of the sampling step that a model call belongs to, from 0; None if unknown."""
    sigmas, sigma = options.get("sample_sigmas"), options.get("sigmas")
    if not isinstance(sigmas, torch.Tensor) or not isinstance(sigma, torch.Tensor):
        return None
    return max(0, int((sigmas >= sigma.reshape(-1)[0].to(sigmas) * 0.999).sum()) - 1)
