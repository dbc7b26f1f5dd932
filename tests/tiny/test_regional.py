"""Regional attention on a MODEL: identities, manners, and what else runs beside it."""

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)

import nodes
from mix_of_show.mos_core.regions.region import Box, Region
from mix_of_show.nodes.sample import RegionalSampler
from support.golden import relative_error
from support.sampling import (
    encode,
    predict_noise,
    sample,
)
from support.tiny_models import LAYERS, golden_unet
from support.two_regions import (  # noqa: F401 (fixtures)
    LEFT,
    NEGATIVE,
    PROMPT,
    RIGHT,
    TOLERANCE,
    WHOLE,
    layout,
    loud,
    pair,
    patch,
    two_sides,
)

SLIVER = Box(0.51, 0.51, 0.52, 0.52)  # no whole cell on any map


def outputs_of(model, clip, attention=2, prompt="photo", **options):
    """What each attention of the first step returns, by layer."""
    outputs = []
    seen = model.clone()
    seen.set_model_patch(
        lambda n, extra: outputs.append(n.clone()) or n, f"attn{attention}_output_patch"
    )
    sample(seen, encode(clip, prompt), encode(clip, "blurry"), steps=1, **options)
    return outputs[:LAYERS]


# ------------------------------------------------------------------------------- identities


def test_without_regions_the_model_is_the_base_model_bit_for_bit(pair):
    model, clip = pair
    found = patch(model, clip, layout())
    assert found is not model
    c, n = encode(clip, PROMPT), encode(clip, NEGATIVE)
    assert torch.equal(sample(found, c, n), sample(model, c, n))


@pytest.mark.parametrize(
    "region",
    [Region(PROMPT, NEGATIVE, weight=0.0, box=WHOLE), Region(PROMPT, NEGATIVE, box=SLIVER)],
    ids=["weight 0", "no cell"],
)
def test_a_region_without_effect_leaves_the_base_model_bit_for_bit(region, pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(patch(model, clip, layout(region)), c, n)
    assert torch.equal(found, sample(model, c, n))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (24, 16)])
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_one_region_over_the_whole_canvas_is_the_plain_prompt(size, cfg, pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=WHOLE)))
    found = sample(regional, encode(clip, "photo"), encode(clip, "blurry"), cfg=cfg, size=size)
    plain = sample(model, encode(clip, PROMPT), encode(clip, NEGATIVE), cfg=cfg, size=size)
    assert relative_error(found, plain) <= TOLERANCE


def test_a_mask_over_the_whole_canvas_is_the_plain_prompt(loud):
    model, clip = loud
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, mask=torch.ones(7, 5))))
    found = sample(regional, encode(clip, "photo"), encode(clip, "blurry"))
    plain = sample(model, encode(clip, PROMPT), encode(clip, NEGATIVE))
    assert relative_error(found, plain) <= TOLERANCE


def test_a_region_without_texts_keeps_the_global_ones(pair):
    model, clip = pair
    c, n = encode(clip, PROMPT), encode(clip, NEGATIVE)
    regional = patch(model, clip, layout(Region("", "", box=LEFT)))
    assert relative_error(sample(regional, c, n), sample(model, c, n)) <= TOLERANCE


def test_a_region_without_a_negative_prompt_keeps_the_global_one(pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, NEGATIVE)
    found = sample(patch(model, clip, layout(Region(PROMPT, "", box=LEFT))), c, n)
    told = sample(patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=LEFT))), c, n)
    assert relative_error(found, told) <= TOLERANCE


def test_overlapping_regions_with_one_prompt_are_one_region(pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    parts = layout(
        Region(PROMPT, NEGATIVE, box=Box(0, 0, 0.75, 1)),
        Region(PROMPT, NEGATIVE, box=Box(0.25, 0, 1, 1)),
    )
    one = layout(Region(PROMPT, NEGATIVE, box=WHOLE))
    found = sample(patch(model, clip, parts), c, n)
    assert relative_error(found, sample(patch(model, clip, one), c, n)) <= TOLERANCE


def test_outside_all_boxes_a_cross_attention_is_bit_identical(pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=LEFT)))
    found = outputs_of(regional, clip)[0].unflatten(1, (16, 16))
    plain = outputs_of(model, clip)[0].unflatten(1, (16, 16))
    assert torch.equal(found[:, :, 8:], plain[:, :, 8:])
    assert (found[:, :, :8] != plain[:, :, :8]).any(-1).all()


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_weight_mixes_both_attentions_of_a_layer(weight, pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, "blurry", weight=weight, box=WHOLE)))
    found = outputs_of(regional, clip)[0]
    own, base = outputs_of(model, clip, prompt=PROMPT)[0], outputs_of(model, clip)[0]
    assert relative_error(found, weight * own + (1 - weight) * base) <= TOLERANCE


def test_texts_of_different_length_can_stand_side_by_side(pair):
    model, clip = pair
    long = "a red car, " * 30  # two sections of 77
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    regional = patch(model, clip, layout(Region(long, NEGATIVE, box=WHOLE)))
    plain = sample(model, encode(clip, long), encode(clip, NEGATIVE))
    assert relative_error(sample(regional, c, n), plain) <= TOLERANCE


# --------------------------------------------------------------------- how it is batched


@pytest.mark.parametrize("chunks", [(1, 0), (0, 1), (0, 0), (1,), (0,)])
def test_halves_are_told_apart_however_they_are_batched(chunks, unet, clip):
    regional = patch(unet, clip, two_sides())
    texts = [encode(clip, "blurry" if chunk else "photo")[0][0] for chunk in chunks]
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent = noise.repeat(len(chunks), 1, 1, 1)
    context = torch.cat([text.expand(2, -1, -1) for text in texts])
    found = predict_noise(regional, latent, 500, context, chunks)
    for i, chunk in enumerate(chunks):
        for picture in range(2):
            row = 2 * i + picture
            alone = predict_noise(regional, noise[picture][None], 500, texts[i], [chunk])
            assert relative_error(found[row][None], alone) <= TOLERANCE


def test_a_batch_is_its_pictures_one_by_one(loud):
    model, clip = loud
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(regional, c, n, batch=3, size=(16, 24))
    assert found.shape == (3, 4, 16, 24)
    assert relative_error(found[:1], sample(regional, c, n, size=(16, 24))) <= TOLERANCE


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_stock_sampler_runs(sampler, unet, clip):
    regional = patch(unet, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    found, plain = (
        nodes.common_ksampler(m, 0, 2, 7.5, sampler, "karras", c, n, latent)[0]["samples"]
        for m in (regional, unet)
    )
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)


def test_custom_sampling_is_the_ksampler(loud):
    model, clip = loud
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    guider = CFGGuider.execute(regional, c, n, 7.5)[0]
    sigmas = BasicScheduler.execute(regional, "normal", 2, 1.0)[0]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    noise, euler = RandomNoise.execute(0)[0], KSamplerSelect.execute("euler")[0]
    found = SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent)[0]
    assert torch.equal(found["samples"], sample(regional, c, n))


def test_the_sampler_node_is_the_patch_and_a_ksampler(loud):
    model, clip = loud
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    found = RegionalSampler.execute(
        model, clip, two_sides(), c, n, latent, 0, 2, 7.5, "euler", "normal", 1.0
    )[0]
    assert torch.equal(found["samples"], sample(patch(model, clip, two_sides()), c, n))


def test_half_precision_is_close_to_full(clip):
    half = golden_unet(dtype=torch.bfloat16)
    full = golden_unet()
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    regions = layout(Region(PROMPT, NEGATIVE, weight=0.7, box=LEFT), Region("lake", box=RIGHT))
    found, exact, plain = (
        sample(m, c, n, steps=1)
        for m in (patch(half, clip, regions), patch(full, clip, regions), full)
    )
    assert (found - exact).norm() < 0.2 * (exact - plain).norm()
