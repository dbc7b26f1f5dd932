"""Regions on Anima, whose text runs through an adapter of its own before it comes to the model."""

from dataclasses import replace

import comfy.supported_models
import pytest
import torch

from mix_of_show.mos_core.compose.drawn import RegionText
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.regions.region import Regions
from support.dit_models import TINY, draw_dit, fill
from support.dit_regions import LEFT, WHOLE, error, merged, random_lora, region, with_regions
from support.tiny_models import patcher_of

WIDTH = 1024  # fixed, as all of the adapter


@pytest.fixture(scope="module")
def model():
    kind = getattr(comfy.supported_models, "Anima", None)
    if kind is None:
        pytest.skip("this ComfyUI has no Anima")
    config = kind(
        {**TINY["cosmos"].config, "image_model": "anima", "crossattn_emb_channels": WIDTH}
    )
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model({}, "", device="cpu")
    fill(made.diffusion_model, 0)
    return patcher_of(made)


def prompt(seed: int, tokens: int) -> list:
    """As Anima's text encoders make it: Qwen3's states, T5's ids and weights."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, tokens, WIDTH, generator=generator)
    ids = torch.randint(0, 30000, (tokens + 2,), generator=generator)
    return [[text, {"t5xxl_ids": ids, "t5xxl_weights": torch.ones(tokens + 2)}]]


def draw(model, positive, negative):
    return draw_dit(model, "cosmos", positive, negative)


def test_a_region_everywhere_is_the_plain_picture_with_its_prompt_and_load_lora(model):
    family, _ = family_of(model.model.model_config.unet_config)
    assert family.name == "anima"
    own = RegionText(prompt(3, 7), prompt(4, 9))
    lora = random_lora(model)
    for concept, expected in ((None, model), (lora, merged(model, lora))):
        patched = with_regions(model, (region(WHOLE, own, concept),))
        found = draw(patched, prompt(1, 5), prompt(2, 5))
        assert error(found, draw(expected, prompt(3, 7), prompt(4, 9))) <= 1e-4
    plain = draw(model, prompt(1, 5), prompt(2, 5))
    assert error(found, plain) > 0.1


def test_its_latent_is_led(model):
    own = RegionText(prompt(3, 7), prompt(4, 9))
    drawn = (replace(region(LEFT, own, random_lora(model)), positions=(1, 3)),)
    unled = draw(with_regions(model, drawn), prompt(1, 5), prompt(2, 5))
    log = ComposerLog(Regions(128, 128, (drawn[0].region,)), ("left",))
    patched = with_regions(model, drawn)
    settings = GuidanceSettings(step_size=40.0, largest_change=0.0, reinitialise=False)
    add_guidance(patched, Guidance(drawn, settings, log, "on"))
    found = draw(patched, prompt(1, 5), prompt(2, 5))
    assert torch.isfinite(found).all()
    assert not torch.equal(found, unled)
    assert all(min(step.terms[term][0] for term in step.terms) > 0 for step in log.steps)
    assert len(log.steps) == 2
