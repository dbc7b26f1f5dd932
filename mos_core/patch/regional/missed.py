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


class Pieces:
    """Whether the model sees the picture as a whole. latent: (..., rows, columns), as sampled."""

    def __init__(self, latent: torch.Tensor):
        self.whole = _size(latent)
        self.seen: set[tuple[int, ...]] = set()

    def note(self, x: torch.Tensor) -> None:
        """x: what the model is called with."""
        if self.whole and _size(x) != self.whole:
            self.seen.add(_size(x))

    def sentences(self) -> tuple[str, ...]:
        if not self.seen:
            return ()
        piece, whole = (" x ".join(map(str, size)) for size in (min(self.seen), self.whole))
        return (
            f"Another node had the picture drawn in pieces ({piece} cells of {whole}): all regions "
            "were fitted into every piece. Draw with regions first, and use tiles or conditionings "
            "with an area on a MODEL without them.",
        )


def _size(latent: torch.Tensor) -> tuple[int, ...]:
    """(rows, columns); empty for what holds several latents at once."""
    return () if getattr(latent, "is_nested", False) else tuple(latent.shape[-2:])


def step_of(options: Mapping) -> int | None:
    """The number of the sampling step that a model call belongs to, from 0; None if unknown."""
    sigmas, sigma = options.get("sample_sigmas"), options.get("sigmas")
    if not isinstance(sigmas, torch.Tensor) or not isinstance(sigma, torch.Tensor):
        return None
    return max(0, int((sigmas >= sigma.reshape(-1)[0].to(sigmas) * 0.999).sum()) - 1)
