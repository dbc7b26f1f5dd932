"""Detail Regions on tiny SDXL and tiny diffusion transformers: what a second pass must hold."""

import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.taesd.taesd
import pytest
import torch

from mix_of_show.mos_core.patch import detail
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.detail import DetailSettings, detail_regions
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.mos_core.regions.soften import feather
from mix_of_show.mos_core.regions.to_masks import region_masks
from support.dit_clips import CLIPS
from support.dit_models import tiny_dit
from support.dit_regions import two_loras
from support.sampling import describe, encode, fingerprint
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import fill, tiny_sdxl, tiny_sdxl_clip

LEFT, RIGHT = Box(0.0, 0.125, 0.375, 0.875), Box(0.5, 0.125, 0.875, 0.875)
TWO = Regions(
    128,
    64,
    (
        Region("a knight", box=LEFT, concept="knight"),
        Region("a queen", box=RIGHT, concept="queen"),
    ),
)
QUICK = DetailSettings(
    seed=4, steps=2, cfg=2.0, side=64, feather=4.0, denoise=0.5, sampler="euler", scheduler="simple"
)


class FrameVae:
    """A VAE whose latents and pictures have a time axis, as Qwen-Image's and Krea 2's do."""

    def __init__(self, vae):
        self.vae = vae

    def encode(self, pixels):
        return self.vae.encode(pixels).unsqueeze(2)

    def decode(self, latent):
        return self.vae.decode(latent.squeeze(2)).unsqueeze(1)


@pytest.fixture(scope="module", params=["sdxl", *CLIPS])
def world(request):
    """MODEL, CLIP, VAE, two ordinary LoRAs."""
    vae = comfy.taesd.taesd.TAESD(latent_channels=4 if request.param == "sdxl" else 16)
    fill(vae)
    vae = comfy.sd.VAE(sd=vae.state_dict())
    if request.param == "sdxl":
        model, clip = tiny_sdxl(), tiny_sdxl_clip()
        names = enumerate(("knight", "queen"))
        return (
            model,
            clip,
            vae,
            tuple(tiny_concept(model, clip, n, i, tables=i == 0) for i, n in names),
        )
    model, clip = tiny_dit(request.param), CLIPS[request.param]()
    if request.param == "qwen_image":
        vae = FrameVae(vae)
    return model, clip, vae, two_loras(model, "knight", "queen", scale=0.1)


@pytest.fixture(scope="module")
def picture():
    noise = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    large = torch.nn.functional.interpolate(noise, (64, 128), mode="bicubic")
    return large.movedim(1, -1).clamp(0, 1)


def run(world, picture, regions=TWO, settings=QUICK):
    return detail_regions(picture, *world, regions, settings)


def alphas(regions=TWO):
    return feather(region_masks(regions, 128, 64), QUICK.feather)


def test_outside_the_regions_no_bit_changes_and_inside_much_does(world, picture):
    done = run(world, picture).image
    alpha = alphas()
    outside = alpha.amax(0) == 0
    assert outside.sum() > 500
    assert torch.equal(done[0][outside], picture[0][outside])
    for own in alpha:
        assert (done[0] - picture[0])[own > 0.9].abs().mean() > 0.01


def test_a_seam_is_no_more_than_a_trip_through_the_vae(world, picture):
    one = Regions(128, 64, TWO.regions[:1])
    (alpha,) = alphas(one)
    border = (alpha > 0) & (alpha < 0.1)
    vae = world[2]
    trip = vae.decode(vae.encode(picture)).reshape(1, 64, 128, -1)[0].clamp(0, 1)
    drawn = (run(world, picture, one).image[0] - picture[0]).abs()[border].mean()
    assert drawn <= (trip - picture[0]).abs()[border].mean()


def test_the_base_is_restored_and_the_same_seed_draws_the_same(world, picture):
    model, clip, _, _ = world
    before = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    assert torch.equal(run(world, picture).image, run(world, picture).image)
    after = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    assert after == before


def test_each_crop_is_drawn_by_its_own_concept_alone(world, picture):
    """As ComfyUI's own sampling of the crop does with that concept on MODEL and CLIP."""
    model, clip, vae, chain = world
    settings = DetailSettings(**{**vars(QUICK), "hold": False})
    done = run(world, picture, settings=settings)
    for number, (crop, drawn) in enumerate(done.crops):
        own, words = apply_concepts(model, clip, (chain[number],))
        texts = encode(words, TWO.regions[number].prompt), encode(words, "")
        latent = comfy.sample.fix_empty_latent_channels(model, vae.encode(crop))
        noise = comfy.sample.prepare_noise(latent, QUICK.seed + number)
        latent = comfy.sample.sample(
            own, noise, QUICK.steps, QUICK.cfg, QUICK.sampler, QUICK.scheduler, *texts, latent,
            denoise=QUICK.denoise, seed=QUICK.seed + number,
        )  # fmt: skip
        expected = vae.decode(latent).reshape(drawn.shape)
        assert torch.equal(drawn, expected.clamp(0, 1))


def test_a_cancel_ends_it_at_once_and_leaves_nothing(world, picture, monkeypatch):
    model, clip, _, _ = world
    before = describe(model), describe(clip.patcher), fingerprint(model)
    begun = []
    drawing = detail._draw

    def interrupted(*args):
        begun.append(1)
        comfy.model_management.interrupt_current_processing()
        return drawing(*args)

    monkeypatch.setattr(detail, "_draw", interrupted)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(world, picture)
    comfy.model_management.interrupt_current_processing(False)
    assert begun == [1]
    assert (describe(model), describe(clip.patcher), fingerprint(model)) == before
