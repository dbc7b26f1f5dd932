"""Detail Regions on a tiny SDXL model: each crop is what stock nodes draw of it with that region's
concept alone, and the rest of the picture stays."""

import comfy.sd
import comfy.taesd.taesd
import pytest
import torch

import nodes
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.detail import DetailSettings, detail_regions
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.sampling import describe, encode, fingerprint
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import fill, tiny_sdxl, tiny_sdxl_clip

LEFT, RIGHT = Box(0.0, 0.125, 0.375, 0.875), Box(0.5, 0.125, 0.875, 0.875)
TWO = Regions(
    128, 64, (Region("a <knight>", box=LEFT), Region("a queen", box=RIGHT, concept="queen"))
)
QUICK = DetailSettings(
    seed=4, steps=2, cfg=2.0, side=64, feather=4.0, denoise=0.5, hold=False, negative="dark"
)


@pytest.fixture(scope="module")
def world():
    """MODEL, CLIP, VAE, an ED-LoRA and an ordinary LoRA."""
    model, clip, vae = tiny_sdxl(), tiny_sdxl_clip(), comfy.taesd.taesd.TAESD(latent_channels=4)
    fill(vae)
    chain = (
        tiny_concept(model, clip, "knight", 0),
        tiny_concept(model, clip, "queen", 1, tables=False),
    )
    return model, clip, comfy.sd.VAE(sd=vae.state_dict()), chain


@pytest.fixture(scope="module")
def picture():
    noise = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    return (
        torch.nn.functional.interpolate(noise, (64, 128), mode="bicubic").movedim(1, -1).clamp(0, 1)
    )


def test_each_crop_is_what_stock_nodes_draw_with_that_regions_concept(world, picture):
    model, clip, vae, chain = world
    before = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    done = detail_regions(picture, model, clip, vae, chain, TWO, QUICK)
    after = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    assert after == before
    assert not torch.equal(done.image, picture)
    for number, (crop, drawn) in enumerate(done.crops):
        own, words = apply_concepts(model, clip, (chain[number],))
        texts = encode(words, TWO.regions[number].prompt), encode(words, QUICK.negative)
        assert "pooled_output" in texts[0][0][1]
        (latent,) = nodes.VAEEncode().encode(vae, crop)
        (latent,) = nodes.KSampler().sample(
            own, QUICK.seed + number, QUICK.steps, QUICK.cfg, QUICK.sampler, QUICK.scheduler,
            *texts, latent, QUICK.denoise,
        )  # fmt: skip
        (expected,) = nodes.VAEDecode().decode(vae, latent)
        assert torch.equal(drawn, expected[..., :3].clamp(0, 1))


def test_outside_the_regions_no_bit_changes(world, picture):
    model, clip, vae, chain = world
    whole = detail_regions(picture, model, clip, vae, chain, TWO, QUICK).image
    one = Regions(128, 64, TWO.regions[:1])
    left = detail_regions(picture, model, clip, vae, chain, one, QUICK).image
    assert torch.equal(left[:, :, 64:], picture[:, :, 64:])  # beside the region
    assert torch.equal(whole[:, :, 120:], picture[:, :, 120:])
    # the other does not reach it, but for the rounding of the masks' feather
    inside = left[:, 12:52, 4:44], whole[:, 12:52, 4:44]
    torch.testing.assert_close(*inside, rtol=0, atol=1e-6)
    assert not torch.equal(left[:, 12:52, 4:44], picture[:, 12:52, 4:44])
