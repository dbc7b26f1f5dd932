"""Detail Regions on the small model that ships: a second pass that leaves the rest alone."""

from pathlib import Path

import comfy.model_management
import comfy.sample
import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.patch import detail
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.detail import DetailSettings, detail_regions, parse_seeds
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.mos_core.regions.soften import feather
from mix_of_show.mos_core.regions.to_masks import region_masks
from mix_of_show.nodes.detail import DetailRegions
from support.sampling import describe, fingerprint

DEMO = Path(__file__).absolute().parents[2] / "demo" / "models"
LEFT, RIGHT = Box(0.0, 0.125, 0.375, 0.875), Box(0.5, 0.125, 0.875, 0.875)
QUICK = DetailSettings(seed=4, steps=2, cfg=2.0, side=64, feather=4.0, denoise=0.5)


@pytest.fixture(scope="module")
def demo():
    """MODEL, CLIP and VAE of the small model that ships, and two of its concepts."""
    names = ("wizard", "blackcat")
    chain = tuple(
        WeightedConcept(read_concept(DEMO / "concepts" / f"{name}.safetensors")) for name in names
    )
    return *load_miniature(str(DEMO / "miniature.safetensors")), chain


@pytest.fixture(scope="module")
def picture():
    noise = torch.rand(1, 3, 8, 16, generator=torch.Generator().manual_seed(1))
    return (
        torch.nn.functional.interpolate(noise, (64, 128), mode="bicubic").movedim(1, -1).clamp(0, 1)
    )


def layout(*regions):
    return Regions(128, 64, regions)


TWO = layout(Region("a <wizard>", box=LEFT), Region("a <blackcat>", box=RIGHT))


def run(demo, picture, regions=TWO, settings=QUICK):
    model, clip, vae, chain = demo
    return detail_regions(picture, model, clip, vae, chain, regions, settings)


def alphas(regions=TWO, settings=QUICK):
    return feather(region_masks(regions, 128, 64), settings.feather)


def test_outside_the_regions_no_bit_changes_and_inside_much_does(demo, picture):
    done = run(demo, picture)
    outside = alphas().amax(0) == 0
    assert outside.sum() > 500
    assert torch.equal(done.image[0][outside], picture[0][outside])
    inside = alphas()[0] > 0.9
    assert (done.image[0][inside] - picture[0][inside]).abs().mean() > 0.02


def test_a_seam_is_no_more_than_a_trip_through_the_vae(demo, picture):
    """Along the border, where the mask begins."""
    one = layout(TWO.regions[0])
    done = run(demo, picture, one)
    (alpha,) = alphas(one)
    border = (alpha > 0) & (alpha < 0.1)
    trip = demo[2].decode(demo[2].encode(picture))[0]
    drawn = (done.image[0] - picture[0]).abs()[border].mean()
    assert drawn <= (trip - picture[0]).abs()[border].mean()


def test_each_region_is_drawn_by_its_own_concept_alone(demo, picture, monkeypatch):
    put_on = []

    def noted(model, clip, concepts):
        put_on.append([entry.concept.name for entry in concepts])
        return apply_concepts(model, clip, concepts)

    monkeypatch.setattr(detail, "apply_concepts", noted)
    regions = layout(*TWO.regions, Region("grass", box=Box(0, 0.8, 1, 1)))
    report = run(demo, picture, regions).report
    assert put_on == [["wizard"], ["blackcat"]]
    assert report[2].startswith("3 grass: ")


def test_the_strength_of_a_region_counts(demo, picture):
    weak = layout(Region("a <wizard>", box=LEFT, strength=0.0))
    strong = layout(Region("a <wizard>", box=LEFT))
    model, clip, vae, chain = demo
    off = (WeightedConcept(chain[0].concept, 0.0, 0.0),)
    none = detail_regions(picture, model, clip, vae, off, strong, QUICK).image
    assert torch.equal(run(demo, picture, weak).image, none)
    assert not torch.equal(run(demo, picture, strong).image, none)


def test_prompts_seeds_and_the_list_to_leave_out_are_each_regions_own(demo, picture):
    plain = run(demo, picture)
    inside = [alpha > 0 for alpha in alphas()]

    def same(settings, number):
        other = run(demo, picture, settings=settings).image
        return torch.equal(other[0][inside[number]], plain.image[0][inside[number]])

    second = DetailSettings(**{**vars(QUICK), "prompts": ("", "a <blackcat> at night")})
    assert [same(second, n) for n in (0, 1)] == [True, False]
    seeds = DetailSettings(**{**vars(QUICK), "seeds": (QUICK.seed, 99)})
    assert [same(seeds, n) for n in (0, 1)] == [True, False]
    left = run(demo, picture, settings=DetailSettings(**{**vars(QUICK), "leave_out": ("wizard",)}))
    assert torch.equal(left.image[0][inside[0]], picture[0][inside[0]])
    assert left.report[0] == "1 a <wizard>: left out"
    with pytest.raises(RegionError, match="'dragon' is to be left out"):
        run(demo, picture, settings=DetailSettings(leave_out=("dragon",)))


def test_every_picture_of_a_batch_is_done_with_noise_of_its_own(demo, picture):
    done = run(demo, torch.cat([picture, picture])).image
    torch.testing.assert_close(done[:1], run(demo, picture).image, rtol=0, atol=1e-3)
    assert (done[0] - done[1]).abs().max() > 0.05


def test_models_stay_as_they_were_and_the_same_seed_draws_the_same(demo, picture):
    model, clip, _, _ = demo
    before = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    one, other = run(demo, picture), run(demo, picture)
    assert torch.equal(one.image, other.image)
    assert before == (
        describe(model),
        describe(clip.patcher),
        fingerprint(model),
        fingerprint(clip.patcher),
    )


def test_a_cancel_ends_it_at_once(demo, picture, monkeypatch):
    steps = []
    of = detail.Progress.of

    def interrupting(self, model):
        inner = of(self, model)

        def callback(*args):
            steps.append(1)
            comfy.model_management.interrupt_current_processing()
            inner(*args)

        return callback

    monkeypatch.setattr(detail.Progress, "of", interrupting)
    before = describe(demo[0])
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        run(demo, picture, settings=DetailSettings(steps=9, side=64))
    comfy.model_management.interrupt_current_processing(False)
    assert len(steps) == 1
    assert describe(demo[0]) == before


def test_a_region_without_a_pixel_is_told(demo, picture):
    behind = layout(
        Region("a <wizard>", box=LEFT, depth=0),
        Region("a <blackcat>", box=Box(0, 0, 1, 1), depth=1),
    )
    report = run(demo, picture, behind).report
    assert report[0].startswith("1 a <wizard>: left out: there is nothing of it")


def test_seeds_are_numbers():
    assert parse_seeds("1, 2\n3") == (1, 2, 3)
    assert parse_seeds(" ") == ()
    with pytest.raises(RegionError, match="no seeds"):
        parse_seeds("one")


def test_the_node_gives_picture_crops_and_report(demo, picture):
    model, clip, vae, chain = demo
    output = DetailRegions.execute(
        picture, model, clip, vae, chain, TWO, 0, steps=1, size=64, leave_out="2"
    )
    image, crops, report = output.args
    assert image.shape == picture.shape
    assert crops.shape == (2, 256, 256, 3)
    assert len(report.splitlines()) == 2
