"""When the guidance acts on the latent, and how strongly (LoRA-Composer, eq. 9; public code)."""

import math
from collections.abc import Sequence

import torch

STEP_SIZE = 20.0  # of the first update
LAST_SHARE = 0.5  # what of it is left at the end of the schedule, before the root is taken
PATIENCE = 5  # index of the first step whose rising loss may end the guidance
MAX_STEPS = 26  # after so many guided steps it ends in any case
# At most so far in one step: root of the mean square over a latent of unit variance. Not in the
# public code. The loss has kinks and steep places, where a step of the published size can destroy a
# picture: in the miniature world one step of eight had ten times the gradient of the others. There
# 0.2 left noise, 0.1 grain, 0.04 clean pictures and as many right characters.
LARGEST_CHANGE = 0.04


def progress(sigma: float, schedule: torch.Tensor) -> float:
    """How far along the whole noise schedule a sigma lies: 0 at its beginning, 1 at its end.

    schedule: the model's own sigmas, ascending, evenly spaced in time. Whatever a model calls its
    times (indices, logarithms, fractions), the place of a sigma among its sigmas is the same.
    """
    if sigma <= 0:
        return 1.0
    known = schedule.detach().float().cpu()
    nearest = (known.clamp(min=1e-12).log() - math.log(sigma)).abs().argmin()
    return 1.0 - nearest.item() / max(len(known) - 1, 1)


def step_sizes(
    steps: int, size: float = STEP_SIZE, begin: float = 0.0, end: float = 1.0
) -> list[float]:
    """`size * sqrt(s)` for every sampling step, s falling linearly from 1 to LAST_SHARE.

    begin, end: what part of the whole noise schedule the sampler walks, 0..1 (image to image,
    or a start or end step). Frame: latents of unit variance.
    """
    first, last = (1 - (1 - LAST_SHARE) * part for part in (begin, end))
    slope = (last - first) / (steps - 1) if steps > 1 else 0.0
    return [size * math.sqrt(first + slope * i) for i in range(steps)]


class StopRule:
    """Which pictures of a batch are still guided: each for itself, until its loss rises once the
    first steps are over, or its steps are used up."""

    def __init__(self, batch: int, max_steps: int = MAX_STEPS):
        self.active = [max_steps > 0] * batch
        self.before = [math.inf] * batch
        self.max_steps = max_steps

    def seen(self, step: int, losses: Sequence[float]) -> None:
        """Notes the losses of a step whose update was made; who stops has no further updates.

        A loss that is no number is ignored. step: counted from the beginning of the sampling.
        """
        for i, loss in enumerate(losses):
            if not self.active[i] or not math.isfinite(loss):
                continue
            rises = loss > self.before[i] and step >= PATIENCE
            self.active[i] = not rises and step < self.max_steps - 1
            self.before[i] = loss
