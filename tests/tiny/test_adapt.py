"""Adaptive regions: boxes first, silhouettes then, in one run."""

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.patch.compose import adapt
from mix_of_show.mos_core.patch.compose.adapt import Adaptation, add_adaptation
from mix_of_show.mos_core.patch.compose.composer import ComposerSettings, apply_composer
from mix_of_show.mos_core.patch.regional.wrappers import regional_of
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.sampling import SIZE, describe, encode, sample

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
TWO = Regions(128, 128, (Region("<a1> <a2>", box=LEFT), Region("<b1>", "blurry", box=RIGHT)))
UNLED = GuidanceSettings(steps=0, reinitialise=False)


@pytest.fixture(scope="module")
def chain(concepts):
    return WeightedConcept(concepts["a"]), WeightedConcept(concepts["b"])


def compose(unet, clip, chain, share, guidance=UNLED):
    settings = ComposerSettings(adapt=share, guidance=guidance)
    model, _, log, _ = apply_composer(unet, clip, chain, TWO, settings)
    return model, log


def drawn(model, clip, steps=4):
    return sample(model, encode(clip, "snow"), encode(clip, "ugly"), steps=steps)


def test_silhouettes_take_the_boxes_place_after_the_first_steps(unet, clip, chain, monkeypatch):
    seen = []
    find = adapt.find_places

    def noted(maps, settings, boxes):
        seen.append((maps, boxes))
        return find(maps, settings, boxes)

    monkeypatch.setattr(adapt, "find_places", noted)
    model, log = compose(unet, clip, chain, 0.5)
    picture = drawn(model, clip)
    assert torch.isfinite(picture).all()
    assert not torch.equal(picture, drawn(compose(unet, clip, chain, 0.0)[0], clip))
    ((maps, boxes),) = seen  # once, in the middle of the run
    assert maps.words.shape == (2, *SIZE)
    torch.testing.assert_close(maps.own.sum(1), torch.ones(SIZE[0] * SIZE[1]))
    assert boxes[0][:, 0].all()  # the grown left box
    assert not boxes[0][:, -1].any()
    assert any("took on their silhouettes" in note for note in log.notes)


def test_regions_that_stay_where_they_are_change_nothing(unet, clip, chain, monkeypatch):
    def same(drawn, recorder, settings):
        return [one.region for one in drawn], "the same"

    monkeypatch.setattr(adapt, "silhouettes", same)
    adapted = drawn(compose(unet, clip, chain, 0.5)[0], clip)
    assert torch.equal(adapted, drawn(compose(unet, clip, chain, 0.0)[0], clip))


def test_up_to_the_last_step_it_only_watches(unet, clip, chain):
    watched = drawn(compose(unet, clip, chain, 1.0)[0], clip)
    assert torch.equal(watched, drawn(compose(unet, clip, chain, 0.0)[0], clip))


def test_every_run_begins_with_the_boxes(unet, clip, chain):
    model, _ = compose(unet, clip, chain, 0.5)
    first = drawn(model, clip)
    assert torch.equal(drawn(model, clip), first)
    assert regional_of(model).runs == []


def test_it_goes_together_with_the_guidance(unet, clip, chain):
    guidance = GuidanceSettings(steps=2, resolution="1/8")
    model, log = compose(unet, clip, chain, 0.5, guidance)
    assert torch.isfinite(drawn(model, clip)).all()
    assert any("silhouettes" in note for note in log.notes)


def test_after_a_cancel_nothing_is_left(unet, clip, chain, monkeypatch):
    before = describe(unet)
    kept = []

    def interrupt(self, recorder):
        kept.append(self)
        comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(Adaptation, "settle", interrupt)
    model, _ = compose(unet, clip, chain, 0.5)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        drawn(model, clip)
    comfy.model_management.interrupt_current_processing(False)
    assert kept[0].waiting == []
    assert describe(unet) == before


def test_a_model_without_regions_is_told_apart(unet):
    assert add_adaptation(unet.clone(), 0.5) is False
