"""Graphs that run and draw something else than was meant: the node says so, or refuses."""

import pytest
import torch

from mix_of_show.mos_core.errors import ConceptTokenError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host import sampling_notes
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes import progress
from mix_of_show.nodes.apply import ApplyConcepts
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.sample import RegionalAttention, RegionalSampler
from support.sampling import SIZE, describe, encode, sample

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


@pytest.fixture(scope="module")
def loaded(concepts):
    return tuple(WeightedConcept(concepts[name]) for name in ("a", "b"))


@pytest.fixture(scope="module")
def applied(unet, clip, loaded):
    with torch.inference_mode():
        return apply_concepts(unet, clip, loaded)


@pytest.fixture
def told(monkeypatch):
    """What the nodes tell, the last text last."""
    texts = []
    monkeypatch.setattr(progress, "send_text", lambda node_id, text: texts.append(text))
    return texts


def two(first="a <a1> <a2>", second="a <b1> <b2>", width=128, height=128, boxes=(LEFT, RIGHT)):
    drawn = zip((first, second), boxes, strict=True)
    return Regions(width, height, tuple(Region(prompt, box=box) for prompt, box in drawn))


def compose(unet, clip, loaded, regions, **options):
    return ComposerAttention.execute(
        unet, clip, loaded, regions, guidance_steps=0, reinitialise=False, **options
    ).args[0]


def sampled(model, clip, prompt="a photo"):
    text = encode(clip, prompt)
    return sample(model, text, text, steps=1)


def test_text_of_another_clip_than_apply_concepts_is_told(unet, clip, loaded, told):
    model, text = ApplyConcepts.execute(unet, clip, loaded).args
    sampled(model, clip, "a <a1> <a2>")
    assert "Connect the CLIP output of this node" in told[-1]
    sampled(model, text, "a <a1> <a2>")
    assert told[-1] == ""
    before = describe(unet)
    assert ApplyConcepts.execute(unet, clip, ()).args == (unet, clip)
    assert describe(unet) == before


def test_a_negative_prompt_of_the_right_clip_is_enough(unet, clip, loaded, told):
    model, text = ApplyConcepts.execute(unet, clip, loaded).args
    sample(model, encode(clip, "a photo"), encode(text, "blurry"), steps=1)
    assert told[-1] == ""


def test_a_model_with_concepts_and_a_clip_without_is_refused_or_told(applied, clip, told):
    model, text = applied
    with pytest.raises(ConceptTokenError, match=r"names <a1>.*CLIP output"):
        RegionalAttention.execute(model, clip, two())
    RegionalAttention.execute(model, clip, two("a cat", "a dog"))
    assert "the CLIP is one without" in told[-1]
    RegionalAttention.execute(model, text, two())
    assert told[-1] == ""


def test_tokens_in_boxes_on_a_model_without_concepts_are_told(unet, clip, told):
    RegionalAttention.execute(unet, clip, two())
    assert "names <a1>, but this CLIP knows no concepts" in told[-1]
    assert "names <b1>" in told[-1]


def test_a_token_without_brackets_is_told_by_both_ways(unet, clip, applied, loaded, told):
    RegionalAttention.execute(*applied, two("an a1 man"))
    assert "plain word 'a1'" in told[-1]
    compose(unet, clip, loaded, two("an a1 man"))
    assert "angle brackets: <a1>" in told[-1]
    assert "'edlora_a' has no region" in told[-1]


def test_two_concepts_on_one_place_are_told_by_both_ways(unet, clip, applied, loaded, told):
    crowded = two(boxes=(LEFT, LEFT))
    RegionalAttention.execute(*applied, crowded)
    assert "different concepts on the same place" in told[-1]
    compose(unet, clip, loaded, crowded)
    assert "different concepts on the same place" in told[-1]


def test_a_layout_of_another_shape_than_the_picture_is_told(unet, clip, applied, loaded, told):
    wide = two(width=384, height=128)
    text = encode(applied[1], "a photo")
    latent = {"samples": torch.zeros(1, 4, *SIZE)}
    RegionalSampler.execute(
        *applied, wide, text, text, latent, 0, 1, 1.0, "euler", "normal", 1.0
    )  # fmt: skip
    assert "384 x 128 pixels, the picture has 128 x 128" in told[-2] + told[-1]
    sampled(compose(unet, clip, loaded, wide), clip)
    assert "the regions are stretched" in told[-1]
    sampled(compose(unet, clip, loaded, two()), clip)
    assert told[-1] == ""


def test_apply_concepts_before_the_composer_is_refused_with_the_cure(applied, loaded):
    with pytest.raises(ConceptTokenError, match=r"holds the concept 'edlora_a'.*base MODEL"):
        compose(*applied, loaded, two())


def test_a_token_in_the_composers_scene_prompt_is_told(unet, clip, loaded, told, monkeypatch):
    prompt = {
        "1": {"class_type": "Loader", "inputs": {}},
        "2": {"class_type": "CLIPTextEncode", "inputs": {"text": "a <a1>", "clip": ["1", 0]}},
        "3": {"class_type": "KSampler", "inputs": {"positive": ["2", 0]}},
    }
    monkeypatch.setattr(sampling_notes, "running_prompt", lambda: (prompt, "3"))
    sampled(compose(unet, clip, loaded, two()), clip)
    assert "'CLIPTextEncode' names <a1>, which is plain words there" in told[-1]
