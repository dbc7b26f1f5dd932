"""Made-up concepts for the tiny SDXL models: embeddings for both encoders, deltas by name."""

import torch

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import ATTENTION, FEED_FORWARD, PROJECTION
from mix_of_show.mos_core.records import Concept, WeightedConcept

from .sdxl_models import G_WIDTH, L_WIDTH

PREFIX = "diffusion_model."
WIDTHS = {"clip_l": L_WIDTH, "clip_g": G_WIDTH}


def pair(out: int, into: int, generator: torch.Generator, rank: int = 2) -> LowRank:
    down = torch.randn(rank, into, generator=generator) * into**-0.5
    return LowRank(down, torch.randn(out, rank, generator=generator) * 0.3)


def tiny_concept(model, clip, name: str, seed: int, rows: int = 11, tables: bool = True):
    """A chain's entry: "<name>" with deltas on every linear layer of the UNet's blocks and of both
    text encoders. tables False: an ordinary LoRA, whose trigger word is the name."""
    generator = torch.Generator().manual_seed(seed)
    role = family_of(model.model.model_config.unet_config)[0].role
    deltas = {}
    for path, module in model.model.diffusion_model.named_modules():
        own = role(PREFIX + path) if isinstance(module, torch.nn.Linear) else None
        if own is not None and own.part in (ATTENTION, FEED_FORWARD, PROJECTION):
            deltas[PREFIX + path] = pair(module.out_features, module.in_features, generator)
    for part, width in (("text_encoder", L_WIDTH), ("text_encoder_2", G_WIDTH)):
        module = f"{part}.text_model.encoder.layers.0.self_attn.q_proj"
        deltas[module] = pair(width, width, generator)
    word = f"<{name}>" if tables else name
    own = {e: {word: torch.randn(rows, w, generator=generator)} for e, w in WIDTHS.items()}
    return WeightedConcept(Concept(name, (word,), own if tables else {}, deltas, "sdxl"))
