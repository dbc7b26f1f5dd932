"""The training loop: AdamW with linear decay over embeddings and factors (Mix-of-Show, 4.1).

Every step draws its randomness from (seed, step) alone, so that a run that was stopped and resumed
takes the same steps as one that was not.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..errors import TrainError
from ..records import Concept
from .session import StopTraining, TrainSession
from .settings import TrainSettings
from .snapshot import losses_of, make_optimizer, moments_of, put_snapshot, restore, take_snapshot
from .step import Example, step_loss
from .trainable import TrainableConcept

KEPT_LOSSES = 10_000  # of a stopped run, in its file, so that the curve goes on


@dataclass
class Progress:
    """What a run looks like after a step."""

    step: int
    steps: int
    losses: list[float] = field(default_factory=list)
    seconds_left: float = 0.0
    stopped: str = ""  # why the run ended early, or ""

    @property
    def mean_loss(self) -> float:
        """Over the last 50 steps: single steps jump with the noise level."""
        recent = self.losses[-50:]
        return sum(recent) / max(len(recent), 1)


def train(
    session: TrainSession,
    trainable: TrainableConcept,
    examples: Sequence[Example],
    settings: TrainSettings,
    on_step: Callable[[Progress], None],
    resume: Concept | None = None,
    name: str = "concept",
) -> tuple[Concept, Progress]:
    """Trains until `settings.steps`, or until `on_step` or the session raises StopTraining.

    session: open. Returns the concept (with what is needed to resume, if it is not finished) and
    the losses. Raises TrainError if the loss is not finite before anything was learnt.
    """
    optimizer = make_optimizer(trainable, settings)
    progress = Progress(restore(optimizer, resume), settings.steps, losses_of(resume))
    device = torch.device(session.device).type
    scaler = torch.amp.GradScaler(device, enabled=session.needs_loss_scaling)
    frozen, good = False, take_snapshot(optimizer)
    begun, first = time.monotonic(), progress.step
    while progress.step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * (1 - progress.step / settings.steps)
        frozen = frozen or freeze_embeddings(trainable, settings)
        try:
            loss = add_gradients(session, trainable, examples, settings, progress.step, scaler)
        except StopTraining:  # in the middle of a step, which is then taken back
            progress.stopped = f"cancelled after step {progress.step}"
            break
        if not math.isfinite(loss):
            put_snapshot(optimizer, good)
            take_back(progress, first)
            break
        good = take_snapshot(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.losses.append(loss)
        pace = (time.monotonic() - begun) / (progress.step - first)
        progress.seconds_left = pace * (settings.steps - progress.step)
        try:
            on_step(progress)
        except StopTraining as stop:
            progress.stopped = str(stop) or "stopped"
            break
    moments = moments_of(optimizer) if progress.step < settings.steps else None
    facts = {**settings.as_metadata(), "steps_done": progress.step}
    if moments is not None:
        facts["losses"] = [round(loss, 6) for loss in progress.losses[-KEPT_LOSSES:]]
    return trainable.to_concept(name, facts, moments), progress


def add_gradients(
    session: TrainSession,
    trainable: TrainableConcept,
    examples: Sequence[Example],
    settings: TrainSettings,
    step: int,
    scaler: torch.amp.GradScaler,
) -> float:
    """The backward passes of one step; its mean loss."""
    total, parts = 0.0, settings.accumulation
    for part in range(parts):
        micro = step * parts + part
        loss = step_loss(session, trainable.words, examples, settings, micro)
        scaler.scale(loss / parts).backward()
        total += loss.item() / parts
    return total


def take_back(progress: Progress, first: int) -> None:
    """The step whose result is no number. Raises TrainError if there was none before it."""
    if progress.step == first:
        raise TrainError(
            "the loss is not a finite number in the first step; the pictures or the model hold "
            "invalid values, or the dtype is too narrow (try bf16 or fp32)"
        )
    progress.stopped = "the loss became infinite; the last good state was kept, use lower rates"
    progress.step -= 1


def freeze_embeddings(trainable: TrainableConcept, settings: TrainSettings) -> bool:
    """Stops the embeddings once their mean norm has reached the threshold, each text encoder's for
    itself; True once all stand still."""
    limit, moving = settings.embedding_norm, False
    for encoder, own in trainable.embeddings.items():
        if limit and trainable.embedding_norm(encoder) >= limit:
            for table in own.values():
                table.requires_grad_(False)
        else:
            moving = True
    return not moving
