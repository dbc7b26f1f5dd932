"""Regions and concepts beside ComfyUI's own nodes."""

import torch

import nodes
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention
from support.sampling import encode

P, N, G, GN = "a red car near the forest", "lowres, bad anatomy", "photo", "blurry"
LEFT, RIGHT, WHOLE = Box(0, 0, 0.4, 1), Box(0.6, 0, 1, 1), Box(0, 0, 1, 1)
TOLERANCE = 2e-5
QUIET = {"guidance_steps": 0, "reinitialise": False}


def composed(unet, clip, concepts, regions=None, **options):
    """(MODEL, CLIP, log) with a concept at each side."""
    two = (Region("a <a1> <a2>", box=LEFT), Region("a <b1> <b2>", box=RIGHT))
    chain = tuple(WeightedConcept(concepts[name]) for name in "ab")
    layout = Regions(256, 128, regions or two)
    return ComposerAttention.execute(unet, clip, chain, layout, **options).args


def ksample(model, clip, steps=4, sampler="euler", scheduler="normal", cfg=4.0, size=(16, 32),
            **rest):  # fmt: skip
    latent = {"samples": torch.full((1, 4, *size), 0.3)}
    positive, negative = encode(clip, "photo"), encode(clip, "")
    (found,) = nodes.common_ksampler(
        model, 0, steps, cfg, sampler, scheduler, positive, negative, latent, **rest
    )
    return found["samples"]
