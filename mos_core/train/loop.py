"""The training loop: AdamW with linear decay over embeddings and factors (Mix-of-Show, 4.1).

Every step draws its randomness from (seed, step) alone, so that a run that was stopped and resumed
takes the same steps as one that was not.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ..records import Concept
from .captions import compose_caption
from .loss import masked_mse, regularise_attention
from .pictures import View, loss_weight
from .settings import TrainError, TrainSettings
from .trainable import EMB, TEXT, UNET, TrainableConcept

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state, saved to resume a run


class StopTraining(Exception):
    """Raised by a callback to end the run early; what was learnt so far is handed back."""


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


def make_optimizer(trainable: TrainableConcept, settings: TrainSettings) -> torch.optim.AdamW:
    rates = {EMB: settings.rate_embedding, TEXT: settings.rate_text, UNET: settings.rate_unet}
    groups: dict[str, dict] = {}
    for name, parameter in trainable.parameters().items():
        prefix = next(p for p in rates if name.startswith(p))
        parameter.requires_grad_(rates[prefix] > 0)
        if rates[prefix] > 0:
            start = {"params": [], "names": [], "lr": rates[prefix], "base": rates[prefix]}
            group = groups.setdefault(prefix, start)
            group["params"].append(parameter)
            group["names"].append(name)
    return torch.optim.AdamW(
        list(groups.values()), betas=settings.betas, weight_decay=settings.weight_decay
    )


def named_parameters(optimizer: torch.optim.Optimizer):
    """(name, parameter) of everything that is trained."""
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def train(
    session,
    trainable: TrainableConcept,
    views: Sequence[View],
    latents: Sequence[torch.Tensor],
    settings: TrainSettings,
    on_step: Callable[[Progress], None],
    resume: Concept | None = None,
    name: str = "concept",
) -> tuple[Concept, Progress]:
    """Trains until `settings.steps`, or until `on_step` raises StopTraining.

    session: patch.train_session.TrainSession, open. latents: (4, h, w) of every view, the
    model's own scale. Returns the concept (with what is needed to resume, if it is not finished)
    and the losses. Raises TrainError if the loss is not finite before anything was learnt.
    """
    optimizer = make_optimizer(trainable, settings)
    progress = Progress(restore(optimizer, trainable, resume), settings.steps)
    masked = settings.masked_loss == "mask"
    weights = [  # (1, h, w) each
        loss_weight(view, masked, *clean.shape[1:])
        for view, clean in zip(views, latents, strict=True)
    ]
    scaler = torch.amp.GradScaler(
        torch.device(session.device).type, enabled=session.needs_loss_scaling
    )
    frozen = False
    good = take_snapshot(optimizer)
    begun, first = time.monotonic(), progress.step
    while progress.step < settings.steps:
        for group in optimizer.param_groups:
            group["lr"] = group["base"] * (1 - progress.step / settings.steps)
        frozen = frozen or freeze_embeddings(trainable, settings)
        total = 0.0
        try:
            for part in range(settings.accumulation):
                micro = progress.step * settings.accumulation + part
                loss = step_loss(session, trainable, views, latents, weights, settings, micro)
                scaler.scale(loss / settings.accumulation).backward()
                total += loss.item() / settings.accumulation
        except session.Interrupted:  # in the middle of a step, which is then taken back
            progress.stopped = f"cancelled after step {progress.step}"
            break
        if not math.isfinite(total):
            put_snapshot(optimizer, good)
            optimizer.zero_grad()
            if progress.step == first:
                raise TrainError(
                    "the loss is not a finite number in the first step; the pictures or the model "
                    "hold invalid values, or the dtype is too narrow (try bf16 or fp32)"
                )
            progress.stopped = (
                "the loss became infinite; the last good state was kept, use lower rates"
            )
            progress.step -= 1
            break
        good = take_snapshot(optimizer)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.losses.append(total)
        taken = progress.step - first
        pace = (time.monotonic() - begun) / taken
        progress.seconds_left = pace * (settings.steps - progress.step)
        try:
            on_step(progress)
        except StopTraining as stop:
            progress.stopped = str(stop) or "stopped"
            break
    return hand_back(optimizer, trainable, settings, progress, name), progress


def step_loss(session, trainable, views, latents, weights, settings: TrainSettings, micro: int):
    """The loss of one micro-batch, a scalar tensor with a graph."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + micro + 1)
    rng = random.Random(settings.seed * 1_000_003 + micro + 1)
    batch = pick_batch([clean.shape for clean in latents], micro, settings)
    clean = torch.stack([latents[i] for i in batch])
    noise = torch.randn(clean.shape, generator=generator)
    if settings.noise_offset:
        offset = torch.randn(*clean.shape[:2], 1, 1, generator=generator)
        noise = noise + settings.noise_offset * offset
    times = torch.randint(session.timesteps, (len(batch),), generator=generator)
    shuffle = settings.shuffle_captions
    captions = [compose_caption(views[i].caption, trainable.tokens, shuffle, rng) for i in batch]

    regularise = settings.regularisation != "off" and settings.regularisation_weight > 0
    context, select = session.encode(captions)
    prediction, target, maps = session.predict(
        clean, noise, times, context, select if regularise else None
    )
    weight = torch.stack([weights[i] for i in batch])
    loss = masked_mse(prediction, target, weight.to(prediction.device))
    if regularise:
        mask = torch.stack([views[i].mask for i in batch])[:, None].to(prediction.device)
        whole = settings.regularisation == "whole object"
        loss = loss + settings.regularisation_weight * regularise_attention(maps, mask, whole)
    return loss


def pick_batch(shapes: Sequence, micro: int, settings: TrainSettings) -> list[int]:
    """Indices of one micro-batch, all of one shape: the shapes take turns as often as they have
    batches, and every view of a shape comes once per round, both in an order drawn per round."""
    views: dict = {}
    for index, shape in enumerate(shapes):
        views.setdefault(shape, []).append(index)
    size = settings.batch_size
    turns = [shape for shape, own in views.items() for _ in range(math.ceil(len(own) / size))]
    rounds, turn = divmod(micro, len(turns))
    order = shuffled(turns, settings.seed, rounds)
    shape, own = order[turn], views[order[turn]]
    nth = rounds * turns.count(shape) + order[:turn].count(shape)  # batch of this shape
    return [
        shuffled(own, settings.seed, position // len(own))[position % len(own)]
        for position in range(nth * size, (nth + 1) * size)
    ]


def shuffled(items: Sequence, seed: int, rounds: int) -> list:
    items = list(items)
    random.Random(seed * 7_919 + rounds).shuffle(items)
    return items


def freeze_embeddings(trainable: TrainableConcept, settings: TrainSettings) -> bool:
    """Stops the embeddings once their mean norm has reached the threshold; True from then on."""
    if not settings.embedding_norm or trainable.embedding_norm() < settings.embedding_norm:
        return False
    for table in trainable.embeddings.values():
        table.requires_grad_(False)
    return True


# --- what a run needs to go on ---------------------------------------------------------------


def take_snapshot(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Parameters and moments by name, cloned: `<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`."""
    snapshot = {}
    for name, parameter in named_parameters(optimizer):
        snapshot[name] = parameter.detach().clone()
        for moment in MOMENTS:
            if parameter in optimizer.state:
                snapshot[f"{moment}.{name}"] = optimizer.state[parameter][moment].clone()
    return snapshot


def put_snapshot(optimizer: torch.optim.Optimizer, snapshot: dict[str, torch.Tensor]) -> None:
    for name, parameter in named_parameters(optimizer):
        with torch.no_grad():
            parameter.copy_(snapshot[name])
        for moment in MOMENTS:
            if parameter in optimizer.state and f"{moment}.{name}" in snapshot:
                optimizer.state[parameter][moment].copy_(snapshot[f"{moment}.{name}"])


def hand_back(optimizer, trainable, settings, progress: Progress, name: str) -> Concept:
    """The concept as it is now; an unfinished one carries the moments to resume with."""
    resume = None
    if progress.step < settings.steps:
        prefixes = tuple(f"{moment}." for moment in MOMENTS)
        state = take_snapshot(optimizer)
        resume = {name: t.cpu() for name, t in state.items() if name.startswith(prefixes)}
    metadata = {**settings.as_metadata(), "steps_done": progress.step}
    return trainable.to_concept(name, metadata, resume)


def restore(optimizer, trainable: TrainableConcept, resume: Concept | None) -> int:
    """Puts a stopped run's moments back; returns the step to go on from (0 for a finished run)."""
    if resume is None or not resume.resume:
        return 0
    steps_done = int(resume.metadata.get("steps_done", 0))
    for name, parameter in named_parameters(optimizer):
        moments = {
            m: resume.resume[f"{m}.{name}"] for m in MOMENTS if f"{m}.{name}" in resume.resume
        }
        if len(moments) == len(MOMENTS) and moments[MOMENTS[0]].shape == parameter.shape:
            on_device = {
                m: t.to(parameter.device, torch.float32).clone() for m, t in moments.items()
            }
            optimizer.state[parameter] = {"step": torch.tensor(float(steps_done)), **on_device}
    return steps_done
