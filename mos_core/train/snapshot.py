"""Parameters and optimizer moments by name: what a run needs to go back a step, or to go on."""

from collections.abc import Iterator

import torch

from ..records import Concept
from .settings import TrainSettings
from .trainable import EMB, MODEL, TEXT, TrainableConcept

MOMENTS = ("exp_avg", "exp_avg_sq")  # AdamW's state, saved to resume a run
Snapshot = dict[str, torch.Tensor]  # `<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`


def make_optimizer(trainable: TrainableConcept, settings: TrainSettings) -> torch.optim.AdamW:
    """AdamW over the parts whose rate is not 0; the others ask for no gradient."""
    rates = {EMB: settings.rate_embedding, TEXT: settings.rate_text, MODEL: settings.rate_unet}
    groups: dict[str, dict] = {}
    for name, parameter in trainable.parameters().items():
        prefix = next((p for p in (EMB, TEXT) if name.startswith(p)), MODEL)
        parameter.requires_grad_(rates[prefix] > 0)
        if rates[prefix] > 0:
            start = {"params": [], "names": [], "lr": rates[prefix], "base": rates[prefix]}
            group = groups.setdefault(prefix, start)
            group["params"].append(parameter)
            group["names"].append(name)
    return torch.optim.AdamW(
        list(groups.values()), betas=settings.betas, weight_decay=settings.weight_decay
    )


def named_parameters(
    optimizer: torch.optim.Optimizer,
) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """(name, parameter) of everything that is trained."""
    for group in optimizer.param_groups:
        yield from zip(group["names"], group["params"], strict=True)


def take_snapshot(optimizer: torch.optim.Optimizer) -> Snapshot:
    """Parameters and moments, cloned."""
    snapshot = {}
    for name, parameter in named_parameters(optimizer):
        snapshot[name] = parameter.detach().clone()
        for moment in MOMENTS:
            if parameter in optimizer.state:
                snapshot[f"{moment}.{name}"] = optimizer.state[parameter][moment].clone()
    return snapshot


def put_snapshot(optimizer: torch.optim.Optimizer, snapshot: Snapshot) -> None:
    """Gives parameters and moments their values of then."""
    for name, parameter in named_parameters(optimizer):
        with torch.no_grad():
            parameter.copy_(snapshot[name])
        for moment in MOMENTS:
            if parameter in optimizer.state and f"{moment}.{name}" in snapshot:
                optimizer.state[parameter][moment].copy_(snapshot[f"{moment}.{name}"])


def moments_of(optimizer: torch.optim.Optimizer) -> Snapshot:
    """The moments alone, on the CPU, as a concept's file keeps them."""
    prefixes = tuple(f"{moment}." for moment in MOMENTS)
    state = take_snapshot(optimizer)
    return {name: t.cpu() for name, t in state.items() if name.startswith(prefixes)}


def losses_of(resume: Concept | None) -> list[float]:
    """The losses of a stopped run, one per step, as its concept keeps them; none of a finished one,
    and none where the file has something else in their place."""
    if resume is None or not resume.resume:
        return []
    kept = resume.metadata.get("losses")
    steps = int(resume.metadata.get("steps_done", 0))
    if not isinstance(kept, list) or not all(isinstance(loss, (int, float)) for loss in kept):
        return []
    return [float(loss) for loss in kept][-steps:] if steps else []


def restore(optimizer: torch.optim.Optimizer, resume: Concept | None) -> int:
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
