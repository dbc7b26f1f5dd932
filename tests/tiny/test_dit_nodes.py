"""The nodes on diffusion transformers, from LoRAs and prompts to pictures."""

import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicGuider,
    BasicScheduler,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.settings import ComposerSettings, GuidanceSettings
from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.families import FAMILIES
from mix_of_show.mos_core.patch.compose.transformer import reference_notes, transformer_notes
from mix_of_show.mos_core.records import Concept, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.apply import ApplyConcepts
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.sample import RegionalAttention, RegionalSampler
from support.dit_clips import flux_clip, z_image_clip
from support.dit_models import TINY, dit_latent, draw_dit, tiny_dit
from support.dit_regions import error, linear_sites
from support.sampling import describe, encode, fingerprint

CLIPS = {"flux": flux_clip, "z_image": z_image_clip}
WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
MERGED = 1e-4
UNLED = {"guidance_steps": 0, "reinitialise": False}


@pytest.fixture(scope="module", params=tuple(CLIPS))
def loaded(request):
    """(family, MODEL, CLIP)"""
    return request.param, tiny_dit(request.param), CLIPS[request.param]()


def lora_file(model, seed=0, rank=4, scale=0.4) -> dict[str, torch.Tensor]:
    """A LoRA of every linear layer as kohya's trainer writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for site, module in linear_sites(model).items():
        name = "lora_unet_" + site.path.removeprefix("diffusion_model.").replace(".", "_")
        out, into = module.weight.shape
        tensors[f"{name}.lora_down.weight"] = torch.randn(rank, into, generator=generator) / 6
        tensors[f"{name}.lora_up.weight"] = torch.randn(out, rank, generator=generator) * scale / 6
        tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def concept_of(name: str, tensors: dict[str, torch.Tensor], words=()) -> WeightedConcept:
    modules = dict.fromkeys(key.split(".")[0] for key in tensors)
    deltas = {
        module: LowRank(tensors[f"{module}.lora_down.weight"], tensors[f"{module}.lora_up.weight"])
        for module in modules
    }
    return WeightedConcept(Concept(name, tuple(words), {}, deltas, None))


def conditioning(name, clip, text):
    (entry,) = encode(clip, text)
    return [[entry[0], {**TINY[name].extras, **entry[1]}]]


def draw(loaded, model, clip, positive, negative="", **options):
    name = loaded[0]
    both = (conditioning(name, clip, text) for text in (positive, negative))
    return draw_dit(model, name, *both, **options)


def layout(*regions):
    return Regions(128, 128, regions)


def test_apply_concepts_is_load_lora_bit_for_bit(loaded):
    _, model, clip = loaded
    tensors = lora_file(model)
    ours, text = ApplyConcepts.execute(model, clip, (concept_of("anna", tensors),)).args
    stock, stock_text = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    found = draw(loaded, ours, text, "a cat")
    assert torch.equal(found, draw(loaded, stock, stock_text, "a cat"))
    assert not torch.equal(found, draw(loaded, model, clip, "a cat"))


def test_one_concept_over_the_whole_canvas_is_load_lora(loaded):
    _, model, clip = loaded
    tensors = lora_file(model)
    regions = layout(Region("a cat, anna", "blurry", box=WHOLE, concept="anna"))
    patched, text, _ = ComposerAttention.execute(
        model, clip, (concept_of("anna", tensors),), regions, **UNLED
    ).args
    found = draw(loaded, patched, text, "a park", "")
    stock, _ = comfy.sd.load_lora_for_models(model, clip, tensors, 1.0, 1.0)
    expected = draw_dit(
        stock,
        loaded[0],
        # The pooled text is the picture's, and so is the global prompt's.
        with_pooled(loaded, clip, "a cat, anna", "a park"),
        with_pooled(loaded, clip, "blurry", ""),
    )
    assert error(found, expected) <= MERGED


def with_pooled(loaded, clip, text, whole):
    (entry,), (other,) = (conditioning(loaded[0], clip, each) for each in (text, whole))
    return [[entry[0], {**entry[1], "pooled_output": other[1]["pooled_output"]}]]


def test_two_concepts_leave_the_inputs_as_they_were_and_draw_both_sides(loaded):
    name, model, clip = loaded
    before = describe(model), describe(clip.patcher), fingerprint(model)
    concepts = tuple(concept_of(n, lora_file(model, seed)) for seed, n in enumerate(("a", "b")))
    both = Region("a cat", box=LEFT, concept="a"), Region("a dog", box=RIGHT, concept="b")
    patched, text, _ = ComposerAttention.execute(model, clip, concepts, layout(*both)).args
    found = draw(loaded, patched, text, "a park")
    one, text, _ = ComposerAttention.execute(model, clip, concepts[:1], layout(both[0])).args
    other = draw(loaded, one, text, "a park")
    assert (found - other)[..., 8:].abs().max() > 0.1
    assert (describe(model), describe(clip.patcher), fingerprint(model)) == before


@pytest.mark.parametrize("choice", ["skip", "by area", "all"])
def test_the_report_tells_what_does_not_apply(loaded, monkeypatch, choice):
    from mix_of_show.nodes import compose

    _, model, clip = loaded
    told = []
    monkeypatch.setattr(compose, "teller", lambda node: told.append)
    regions = layout(Region("a cat", box=LEFT, concept="anna"))
    concepts = (concept_of("anna", lora_file(model)),)
    ComposerAttention.execute(
        model, clip, concepts, regions, injection="paper", picture_layers=choice
    )
    (text,) = told
    title = {"flux": "Flux.1", "z_image": "Z-Image"}[loaded[0]]
    assert f"Injection 'paper' is for UNets; on {title}" in text
    assert f"The first 26 steps are led: on {title}" in text
    assert "layers of 'anna' see the picture as a whole" in text
    assert f"(picture_layers: {choice})" in text
    told.clear()
    ComposerAttention.execute(model, clip, (), layout(Region("a cat", box=LEFT)), **UNLED)
    assert "UNets" not in told[0]
    assert "led" not in told[0]


def test_what_a_family_has_no_use_for_is_told():
    drawn = (Drawn(Region("a cat", box=LEFT, reference="1"), RegionText(None, None)),)
    quiet = GuidanceSettings(steps=0, reinitialise=False)
    for family in FAMILIES:
        references = family.sequence is not None and family.sequence.references
        assert bool(reference_notes(family, drawn)) is not references
        if family.sequence is None:
            continue
        told = transformer_notes(family, drawn, ComposerSettings(guidance=quiet))
        assert told == ()
        asked = ComposerSettings(guidance=quiet, placement=2.5)
        told = "\n".join(transformer_notes(family, drawn, asked))
        joint = "joint" in family.sequence.attention.values()
        assert ("placement is not used" in told) is not joint


@pytest.mark.parametrize("border", [0.0, 0.25])
@pytest.mark.parametrize("gap", [0.0, 0.1])
@pytest.mark.parametrize("isolation", [True, False])
def test_isolated_regions_that_leave_no_background_are_told_of_their_seams(isolation, gap, border):
    sides = (Box(0, 0, 0.5 - gap, 1), Box(0.5 + gap, 0, 1, 1))
    drawn = [Drawn(Region("a cat", box=side), RegionText(None, None)) for side in sides]
    quiet = GuidanceSettings(steps=0, reinitialise=False)
    asked = ComposerSettings(isolation=isolation, guidance=quiet, border=border)
    (family,) = (one for one in FAMILIES if one.name == "flux")
    told = "\n".join(transformer_notes(family, drawn, asked))
    assert ("seams" in told) == (isolation and not gap and not border)


def test_regional_attention_and_the_regional_sampler_draw_prompts_in_their_regions(loaded):
    name, model, clip = loaded
    regions = layout(Region("a cat", "blurry", box=WHOLE))
    (patched,) = RegionalAttention.execute(model, clip, regions).args
    found = draw(loaded, patched, clip, "a park", "")
    expected = draw_dit(
        model,
        name,
        with_pooled(loaded, clip, "a cat", "a park"),
        with_pooled(loaded, clip, "blurry", ""),
    )
    assert error(found, expected) <= 2e-5
    (latent,) = RegionalSampler.execute(
        model,
        clip,
        regions,
        conditioning(name, clip, "a park"),
        conditioning(name, clip, ""),
        {"samples": dit_latent(name)},
        0,
        2,
        2.0,
        "euler",
        "simple",
        1.0,
    ).args
    assert torch.equal(latent["samples"], found)


def test_a_guider_without_a_negative_prompt_draws_the_regions(loaded):
    name, model, clip = loaded
    regions = layout(Region("a cat", box=LEFT), Region("a dog", box=RIGHT))
    (patched,) = RegionalAttention.execute(model, clip, regions).args
    positive = conditioning(name, clip, "a park")
    (guider,) = BasicGuider.execute(patched, positive).args
    (sigmas,) = BasicScheduler.execute(patched, "simple", 2, 1.0).args
    (noise,), (sampler,) = RandomNoise.execute(0).args, KSamplerSelect.execute("euler").args
    found, _ = SamplerCustomAdvanced.execute(
        noise, guider, sampler, sigmas, {"samples": dit_latent(name)}
    ).args
    expected = draw_dit(patched, name, positive, positive, cfg=1.0)
    assert torch.equal(found["samples"], expected)


def test_a_concept_that_is_not_loaded_is_named(loaded):
    _, model, clip = loaded
    regions = layout(Region("a cat", box=LEFT, concept="bert"))
    with pytest.raises(RegionError, match="'bert', which is not loaded; nearest: 'anna'"):
        ComposerAttention.execute(model, clip, (concept_of("anna", lora_file(model)),), regions)
