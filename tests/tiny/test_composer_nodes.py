"""Composer: Regional LoRA and Attention Maps (Composer), from concepts to pictures."""

import pytest
import torch

from mix_of_show.mos_core.deltas import Whole
from mix_of_show.mos_core.errors import ArchitectureError, ConceptTokenError, RegionError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.compose.composer import minus, token_positions
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention, ComposerMaps
from support.sampling import describe, encode, fingerprint, sample

LEFT, RIGHT, WHOLE = Box(0, 0, 0.4, 1), Box(0.6, 0, 1, 1), Box(0, 0, 1, 1)
SIZE = (16, 32)
QUIET = {"guidance_steps": 0, "reinitialise": False}


@pytest.fixture(scope="module")
def loaded(concepts):
    return tuple(WeightedConcept(concepts[name]) for name in ("a", "b"))


@pytest.fixture(scope="module")
def two():
    return Regions(
        256, 128, (Region("photo of a <a1> <a2>", box=LEFT), Region("a <b1> <b2>", box=RIGHT))
    )


def patch(unet, clip, concepts, regions, **options):
    """(MODEL, CLIP, log) as the node gives them."""
    return ComposerAttention.execute(unet, clip, concepts, regions, **options).args


def draw(model, clip, prompt="photo of a", negative="", **options):
    return sample(model, encode(clip, prompt), encode(clip, negative), size=SIZE, **options)


def test_concepts_in_their_regions_are_drawn_and_led(unet, clip, loaded, two):
    model, text, log = patch(unet, clip, loaded, two)
    picture = draw(model, text)
    assert torch.isfinite(picture).all()
    assert [step.step for step in log.steps] == [0, 1]
    assert log.names == ("photo of a <a1> <a2>", "a <b1> <b2>")
    for step in log.steps:
        assert min(step.terms["enhancement"]) > 0  # both have concept tokens
        assert step.maps.max() > 0
    assert log.notes == []


def test_the_node_leaves_its_inputs_as_they_were(unet, clip, loaded, two):
    before = describe(unet), describe(clip.patcher), fingerprint(unet), clip.tokenizer
    model, text, _ = patch(unet, clip, loaded, two)
    draw(model, text)
    assert (describe(unet), describe(clip.patcher), fingerprint(unet), clip.tokenizer) == before


def test_one_concept_over_the_whole_canvas_is_that_concept_applied(unet, clip, loaded):
    prompt = "photo of a <a1> <a2>"
    regions = Regions(256, 128, (Region(prompt, box=WHOLE),))
    model, text, _ = patch(unet, clip, loaded[:1], regions, **QUIET)
    found = draw(model, text, cfg=1.0)
    applied, applied_text = apply_concepts(unet, clip, loaded[:1])
    expected = draw(applied, applied_text, prompt, cfg=1.0)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


def test_half_a_strength_in_the_region_is_half_the_strength_of_the_concepts_lora(
    unet, clip, loaded
):
    prompt, one = "photo of a <a1> <a2>", loaded[0]
    half = (WeightedConcept(one.concept, 0.5 * one.strength_model, one.strength_clip),)
    regions = Regions(256, 128, (Region(prompt, box=WHOLE, strength=0.5),))
    model, text, _ = patch(unet, clip, loaded[:1], regions, **QUIET)
    found = draw(model, text, cfg=1.0)
    applied, applied_text = apply_concepts(unet, clip, half)
    expected = draw(applied, applied_text, prompt, cfg=1.0)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4


def test_the_background_concept_holds_outside_and_is_taken_away_inside(unet, clip, loaded):
    """A region of another concept over everything: as if there was no background concept."""
    regions = Regions(256, 128, (Region("photo of a <a1> <a2>", box=WHOLE),))
    alone, text, _ = patch(unet, clip, loaded[:1], regions, **QUIET)
    both, text_of_b, _ = patch(unet, clip, loaded, regions, background_concept="edlora_b", **QUIET)
    expected = draw(alone, text, cfg=1.0)
    found = draw(both, text_of_b, cfg=1.0)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4
    empty = Regions(256, 128, (Region("x", weight=0.0, box=LEFT),))
    outside, text_of_b, _ = patch(unet, clip, loaded, empty, background_concept="<b1>", **QUIET)
    applied, applied_text = apply_concepts(unet, clip, loaded[1:])
    assert torch.equal(
        draw(outside, text_of_b, "a <b1> <b2>"), draw(applied, applied_text, "a <b1> <b2>")
    )


def test_a_concept_without_itself_changes_nothing(unet, loaded):
    own = bind(unet, None, loaded[0])
    assert own.model
    less = minus(own.model, own.model)
    assert less.keys() == own.model.keys()
    assert max(delta.matrix().abs().max() for delta in less.values()) < 1e-6


def test_what_only_the_background_changes_is_taken_away_whole(unet, loaded):
    other = bind(unet, None, loaded[1])
    for own in ({}, {site: Whole(delta.matrix()) for site, delta in other.model.items()}):
        for site, delta in minus(own, other.model).items():
            expected = -other.model[site].matrix() if not own else torch.zeros(delta.shape)
            torch.testing.assert_close(delta.matrix(), expected)


def test_token_positions_are_those_of_the_tokenised_prompt(clip, loaded):
    concept = loaded[0].concept
    assert token_positions(clip, "<a1> <a2> sitting", concept) == (1, 2)
    assert token_positions(clip, "smiling, a <a1> <a2>,near", concept) == (4, 5)  # the comma counts
    assert token_positions(clip, "(a <A1>:1.3) and <a1>", concept) == (2, 4)
    assert token_positions(clip, "a car", concept) == ()
    far = "car, " * 45 + "<a2>"
    (position,) = token_positions(clip, far, concept)
    assert position > 77  # the second section


def test_a_region_in_the_second_section_of_a_long_prompt_is_led(unet, clip, loaded):
    prompt = "photo, " * 45 + "a <a1> <a2>"
    regions = Regions(256, 128, (Region(prompt, box=LEFT),))
    model, text, log = patch(unet, clip, loaded[:1], regions)
    draw(model, text, steps=1)
    assert log.steps[0].terms["enhancement"][0] > 0


def test_two_regions_of_one_concept_are_both_drawn(unet, clip, loaded):
    regions = Regions(
        256, 128, (Region("a <a1> <a2>", box=LEFT), Region("photo of <a1>", box=RIGHT))
    )
    model, text, log = patch(unet, clip, loaded[:1], regions)
    assert torch.isfinite(draw(model, text, steps=1)).all()
    assert min(log.steps[0].terms["fill"]) > 0


def test_a_region_without_a_concept_is_isolated_and_not_enhanced(unet, clip, loaded):
    regions = Regions(256, 128, (Region("a <a1> <a2>", box=LEFT), Region("a car", box=RIGHT)))
    model, text, log = patch(unet, clip, loaded[:1], regions)
    draw(model, text, steps=1)
    terms = log.steps[0].terms
    assert terms["enhancement"][1] == terms["fill"][1] == 0
    assert terms["restriction"][1] > 0


@pytest.mark.parametrize("part", ["enhancement", "fill", "restriction"])
def test_each_switch_takes_its_term_away_and_no_other(part, unet, clip, loaded, two):
    on = patch(unet, clip, loaded, two, reinitialise=False)
    off = patch(unet, clip, loaded, two, reinitialise=False, **{part: False})
    zero = patch(unet, clip, loaded, two, reinitialise=False, **{f"{part}_strength": 0.0})
    pictures = [draw(model, text, steps=1) for model, text, _ in (on, off, zero)]
    first, second = on[2].steps[0].terms, off[2].steps[0].terms
    for term, values in first.items():
        assert second[term] == (0, 0) if term == part else second[term] == pytest.approx(values)
    assert not torch.equal(pictures[0], pictures[1])
    assert torch.equal(pictures[1], pictures[2])


@pytest.mark.parametrize(
    "switch", [{"isolation": False}, {"reinitialise": False}, {"injection": "reference"}]
)
def test_each_other_switch_changes_the_picture(switch, unet, clip, loaded, two):
    model, text, _ = patch(unet, clip, loaded, two, guidance_steps=0)
    other, _, _ = patch(unet, clip, loaded, two, guidance_steps=0, **switch)
    assert not torch.equal(draw(model, text), draw(other, text))


def test_masks_are_regions_too(unet, clip, loaded):
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-2, 2, 128), indexing="ij")
    disc = (((x + 1) ** 2 + y**2) < 0.8).float()
    regions = Regions(256, 128, (Region("a <a1> <a2>", mask=disc), Region("<b1>", box=RIGHT)))
    model, text, log = patch(unet, clip, loaded, regions)
    assert torch.isfinite(draw(model, text)).all()
    assert len(log.steps) == 2


def test_overlapping_regions_are_drawn(unet, clip, loaded):
    boxes = Box(0, 0, 0.7, 1), Box(0.3, 0, 1, 1)
    prompts = "a <a1> <a2>", "a <b1> <b2>"
    regions = Regions(
        256, 128, tuple(Region(p, box=b) for p, b in zip(prompts, boxes, strict=True))
    )
    model, text, log = patch(unet, clip, loaded, regions)
    assert torch.isfinite(draw(model, text)).all()
    assert log.notes == []


def test_without_regions_the_scene_is_drawn_alone(unet, clip, loaded):
    model, text, log = patch(unet, clip, loaded, Regions(256, 128))
    assert torch.equal(draw(model, text), draw(unet, clip))
    assert log.steps == []


# ------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("prompt", "options", "error", "message"),
    [
        ("a <c1>", {}, RegionError, "names <c1>, but no loaded concept has that token"),
        ("<a1> and <b1>", {}, RegionError, "names the concepts 'edlora_a' and 'edlora_b'"),
        ("x", {"background_concept": "c"}, RegionError, "background concept 'c' is not loaded"),
    ],
)
def test_what_cannot_be_drawn_is_said(prompt, options, error, message, unet, clip, loaded):
    regions = Regions(256, 128, (Region(prompt, box=LEFT),))
    with pytest.raises(error, match=message):
        patch(unet, clip, loaded, regions, **options)


def test_a_concept_that_is_loaded_twice_is_refused(unet, clip, loaded, two):
    with pytest.raises(ConceptTokenError, match="both claim the token"):
        patch(unet, clip, (*loaded, loaded[0]), two)


def test_a_concept_of_another_kind_is_refused(unet, clip, loaded, two):
    import dataclasses

    other = dataclasses.replace(loaded[1].concept, family="sdxl")
    with pytest.raises(ArchitectureError, match="made for sdxl"):
        patch(unet, clip, (loaded[0], WeightedConcept(other)), two)


# ---------------------------------------------------------------------------- a look inside


def test_the_maps_and_the_curve_are_pictures_of_what_happened(unet, clip, loaded, two):
    model, text, log = patch(unet, clip, loaded, two)
    samples = {"samples": draw(model, text)}
    maps, losses, report = ComposerMaps.execute(log, samples).args
    for picture in (maps, losses):
        assert picture.ndim == 4
        assert picture.shape[-1] == 3
        assert picture.std() > 0.01
    assert report.startswith("2 of 2 steps were led.")
    assert "photo of a <a1> <a2>: enhancement" in report


def test_before_any_sampling_there_is_a_picture_too(unet, clip, loaded, two):
    *_, log = patch(unet, clip, loaded, two)
    maps, losses, report = ComposerMaps.execute(log, {"samples": torch.zeros(1, 4, 8, 8)}).args
    assert maps.shape == losses.shape
    assert report == "Nothing has been sampled with this MODEL yet."


def test_a_trigger_word_stands_where_its_own_tokens_stand(clip):
    from mix_of_show.mos_core.records import Concept

    knight = Concept("knight", ("lowpoly knight", "ohwx"), {}, {}, "sd15")
    assert token_positions(clip, "a lowpoly knight", knight) == (2, 3, 4)
    assert token_positions(clip, "a (Lowpoly Knight:1.2), a lowpoly house", knight) == (2, 3, 4)
    assert token_positions(clip, "a knight", knight) == ()
    assert token_positions(clip, "", knight) == ()
