"""What the guidance saw and did while a picture was sampled, for those who want to look inside."""

from collections.abc import Iterable, Mapping
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
    sentences: list[str] = field(default_factory=list)
    unguided: dict[str, list[int]] = field(default_factory=dict)  # why -> numbers of steps
    total_steps: int = 0
    done: bool = False  # a sampling has begun

    def begin(self, total_steps: int) -> None:
        self.steps.clear()
        self.sentences.clear()
        self.unguided.clear()
        self.total_steps = total_steps
        self.done = True

    def note(self, text: str) -> None:
        """A sentence for the user, once."""
        if text not in self.sentences:
            self.sentences.append(text)

    def not_guided(self, step: int, why: str) -> None:
        """A step that should have been guided and was not."""
        self.unguided.setdefault(why, []).append(step)

    @property
    def notes(self) -> list[str]:
        """What the user should know, a sentence each."""
        missed = [f"Not led{in_steps(steps)}: {why}" for why, steps in self.unguided.items()]
        return [*self.sentences, *missed]


def in_steps(steps: Iterable[int]) -> str:
    """' in step 3', ' in steps 1 to 4, 7'; numbers from 0 become numbers from 1."""
    runs: list[list[int]] = []
    for step in sorted(set(steps)):
        if runs and step == runs[-1][1] + 1:
            runs[-1][1] = step
        else:
            runs.append([step, step])
    if not runs:
        return ""
    words = [str(a + 1) if a == b else f"{a + 1} to {b + 1}" for a, b in runs]
    plural = "s" if len(runs) > 1 or runs[0][0] != runs[0][1] else ""
    return f" in step{plural} {', '.join(words)}"
