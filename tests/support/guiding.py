"""A tiny model that is led."""

import types

import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.patch.compose import guided_run
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from support.composer_models import (
    NEGATIVE,
    POSITIVE,
    composer_model,
    composer_positions,
    composer_text,
    composer_unet,
)
from support.golden_composer import golden_regions

SIZE = (16, 32)
STRONG = {"step_size": 40.0, "largest_change": 0.0, "resolution": "1/16"}


@pytest.fixture(scope="module")
def base():
    """The golden UNet; every test must leave it as it was."""
    return composer_unet()


def guided(base, positions=None, regions=None, **settings):
    """(MODEL, its log)"""
    model = composer_model(base)
    regions = regions or golden_regions("main")
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**STRONG, **settings})
    add_guidance(model, Guidance(watched(regions, positions), chosen, log))
    return model, log


def watched(regions, positions=None):
    """The regions with the places of their tokens, which is all that the guidance asks for."""
    text = RegionText(None, None)
    places = positions or composer_positions()
    return [
        Drawn(region, text, None, own) for region, own in zip(regions.regions, places, strict=True)
    ]


def texts():
    return [[composer_text(POSITIVE), {}]], [[composer_text(NEGATIVE), {}]]


def draw(
    model, steps=3, sampler="euler", cfg=4.0, size=SIZE, seed=1, batch=1, mask=None, **options
):
    latent = {"samples": options.pop("samples", torch.zeros(batch, 4, *size))}
    if mask is not None:
        latent["noise_mask"] = mask
    positive, negative = options.pop("texts", None) or texts()
    (result,) = nodes.common_ksampler(
        model, seed, steps, cfg, sampler, "normal", positive, negative, latent, **options
    )
    return result["samples"]


def run_of(model, sigmas=None, guider=None, arguments=None, **settings):
    """A GuidedRun as a sampling would begin it."""
    guider = guider or types.SimpleNamespace(inner_model=model.model, conds={})
    sigmas = torch.tensor([14.6, 0.0]) if sigmas is None else sigmas
    regions = golden_regions("main")
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**STRONG, **settings})
    x = torch.zeros(1, 4, *SIZE)
    return guided_run.GuidedRun(watched(regions), chosen, log, guider, x, sigmas, arguments or {})
