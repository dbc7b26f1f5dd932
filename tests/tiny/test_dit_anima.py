"""Regions on Anima, whose text runs through an adapter of its own before it comes to the model: its
words stand where T5's tokens do, though Qwen3 reads the text.
"""

from dataclasses import replace

import comfy.supported_models
import pytest
import torch

from mix_of_show.mos_core.compose.drawn import RegionText
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.find.settings import FindSettings
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.find.find_regions import ShortRun, find_regions
from mix_of_show.mos_core.patch.find.mentions import text_places
from mix_of_show.mos_core.regions.region import Regions
from support.dit_clips import build_clip
from support.dit_models import TINY, dit_latent, draw_dit, fill
from support.dit_regions import (
    LEFT,
    WHOLE,
    error,
    merged,
    random_lora,
    region,
    two_loras,
    with_regions,
)
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


@pytest.fixture(scope="module")
def clip(model):
    """Qwen3 of one narrow layer; its width and its words are Anima's."""
    anima = pytest.importorskip("comfy.text_encoders.anima")
    config = {
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    kind = anima.te(dtype_llama=torch.float32)
    return build_clip(kind, anima.AnimaTokenizer, qwen3_06b_model_config=config)


def test_words_are_found_among_t5s_tokens(model, clip):
    family, _ = family_of(model.model.model_config.unet_config)
    text = "a very old boris on the left, anna on the right"
    mentions, places = text_places(clip, text, two_loras(model, "anna", "boris"), family)
    ids = [pair[0] for pair in clip.tokenize(text)["t5xxl"][0]]
    said = [clip.tokenizer.t5xxl.tokenizer.decode([ids[i] for i in at]) for at in places]
    assert [(m.concept, word) for m, word in zip(mentions, said, strict=True)] == [
        (1, "boris"),
        (0, "anna"),
    ]


def test_every_concept_gets_a_region_by_itself(model, clip):
    chain = two_loras(model, "anna", "boris")
    run = ShortRun("anna on the left, boris on the right, snow", "", 3, 2, 1.0, "euler", "simple")
    latent = {"samples": dit_latent("cosmos", (12, 16))}
    first, again = (find_regions(model, clip, chain, latent, run, FindSettings()) for _ in "ab")
    assert [found.concept for found in first.regions.regions] == ["anna", "boris"]
    for one, other in zip(first.regions.regions, again.regions.regions, strict=True):
        assert torch.equal(one.mask, other.mask)
        assert 0 < float(one.mask.mean()) < 1
