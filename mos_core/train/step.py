"""The loss of one step; all of its randomness comes from seed and step number alone."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .batches import pick_batch
from .captions import compose_caption
from .loss import masked_mse, regularise_attention
from .pictures import Frame, View, loss_weight
from .session import TrainSession
from .settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Example:
    """One view as the model sees it.

    latent: (channels, h, w), in the model's own scale; weight: (1, h, w) in 0..1, where the loss
    counts; mask: (height, width) in pixels, or None; caption: with <TOK>; frame: of the view.
    """

    latent: torch.Tensor
    weight: torch.Tensor
    mask: torch.Tensor | None
    caption: str
    frame: Frame


def make_example(view: View, latent: torch.Tensor, settings: TrainSettings) -> Example:
    """latent: (channels, h, w) of the view's pixels."""
    weight = loss_weight(view, settings.masked_loss == "mask", *latent.shape[-2:])
    return Example(latent, weight, view.mask, view.caption, view.frame)


def step_loss(
    session: TrainSession,
    tokens: Sequence[str],
    examples: Sequence[Example],
    settings: TrainSettings,
    micro: int,
) -> torch.Tensor:
    """The loss of micro-batch number `micro`, a scalar tensor with a graph.

    tokens: what <TOK> stands for.
    """
    seed = settings.seed * 1_000_003 + micro + 1
    generator, rng = torch.Generator().manual_seed(seed), random.Random(seed)
    numbers = pick_batch([example.latent.shape for example in examples], micro, settings)
    batch = [examples[number] for number in numbers]
    clean = torch.stack([example.latent for example in batch])
    noise = draw_noise(clean, settings.noise_offset, generator)
    times = torch.randint(len(session.levels), (len(batch),), generator=generator)
    shuffle = settings.shuffle_captions
    texts = session.encode([compose_caption(e.caption, tokens, shuffle, rng) for e in batch])

    device = session.device
    clean, noise, sigma = clean.to(device), noise.to(device), session.levels[times].to(device)
    regularise = settings.regularisation != "off" and settings.regularisation_weight > 0
    output, maps = session.predict(
        session.prediction.noised(clean, noise, sigma),
        sigma,
        texts,
        [example.frame for example in batch],
        record=regularise,
    )
    weight = torch.stack([example.weight for example in batch]).to(device)
    loss = masked_mse(output, session.prediction.target(clean, noise, sigma), weight)
    if regularise:
        masks = [example.mask for example in batch if example.mask is not None]
        mask = torch.stack(masks)[:, None].to(device)
        whole = settings.regularisation == "whole object"
        loss = loss + settings.regularisation_weight * regularise_attention(maps, mask, whole)
    return loss


def draw_noise(like: torch.Tensor, offset: float, generator: torch.Generator) -> torch.Tensor:
    """Unit noise, (batch, channels, ...), every channel of a picture shifted by `offset` times a
    number of its own (Mix-of-Show: "crucial for identity")."""
    noise = torch.randn(like.shape, generator=generator)
    if offset:
        ones = [1] * (like.ndim - 2)
        noise = noise + offset * torch.randn(*like.shape[:2], *ones, generator=generator)
    return noise
