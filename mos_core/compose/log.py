"""What the guidance saw and did while a picture was sampled, for those who want to look inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from ..regions.region import Regions


@dataclass(frozen=True, eq=False)
class GuidedStep:
    """One step of the guidance, of the first picture of a batch where there are several.

    step: number of the sampling step, from 0. losses: of every picture. terms: name of a term ->
    its value per region. maps: (regions, rows, columns) float32 on the CPU, 0..1, the mean of the
    region's concept tokens. skipped: the gradient was no number, the latent stayed as it was.
    """

    step: int
    sigma: float
    losses: tuple[float, ...]
    terms: Mapping[str, tuple[float, ...]]
    maps: torch.Tensor
    skipped: bool = False


@dataclass(eq=False)
class ComposerLog:
    """Filled while sampling, emptied when the next sampling begins. What a MOS_COMPOSER_LOG wire
    carries."""

    regions: Regions
    names: tuple[str, ...]  # of the regions, for pictures
    steps: list[GuidedStep] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    total_steps: int = 0

    def begin(self, total_steps: int) -> None:
        self.steps.clear()
        self.notes.clear()
        self.total_steps = total_steps

    def note(self, text: str) -> None:
        """A sentence for the user, once."""
        if text not in self.notes:
            self.notes.append(text)
