"""Composer's `adapt` on diffusion transformers: boxes first, silhouettes then, in one run."""

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.compose.settings import ComposerSettings, GuidanceSettings
from mix_of_show.mos_core.patch.compose import adapt
from mix_of_show.mos_core.patch.compose.composer import apply_composer
from mix_of_show.mos_core.patch.regional.wrappers import regional_of
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.dit_clips import CLIPS
from support.dit_models import dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import two_loras
from support.sampling import describe, fingerprint

UNLED = GuidanceSettings(steps=0, reinitialise=False)
TWO = Regions(
    128,
    96,
    (
        Region("anna in the snow", "blurry", box=Box(0, 0, 0.5, 1), concept="anna"),
        Region("boris", box=Box(0.5, 0, 1, 1), concept="boris"),
    ),
)


@pytest.fixture(scope="module", params=tuple(CLIPS))
def loaded(request):
    """(family, MODEL, CLIP, two concepts)"""
    model = tiny_dit(request.param)
    return request.param, model, CLIPS[request.param](), two_loras(model, "anna", "boris")


def draw(model, name, cfg=1.0):
    texts = dit_conditioning(name, 0), dit_conditioning(name, 1)
    return draw_dit(model, name, *texts, steps=4, cfg=cfg, size=(12, 16))


def composed(loaded, share, regions=TWO):
    _, model, clip, chain = loaded
    settings = ComposerSettings(adapt=share, guidance=UNLED)
    model, _, log, notes = apply_composer(model, clip, chain, regions, settings)
    return model, log, notes


def test_silhouettes_take_the_boxes_place_after_the_first_steps(loaded, monkeypatch):
    name = loaded[0]
    seen = []
    find_places = adapt.find_places

    def noted(maps, settings, boxes):
        seen.append((maps, boxes))
        return find_places(maps, settings, boxes)

    monkeypatch.setattr(adapt, "find_places", noted)
    before = describe(loaded[1]), fingerprint(loaded[1])
    model, log, notes = composed(loaded, 0.5)
    first = draw(model, name, cfg=2.0)
    assert torch.isfinite(first).all()
    ((maps, boxes),) = seen  # once, in the middle of the run
    assert maps.words.shape == (2, 6, 8)
    torch.testing.assert_close(maps.own.sum(1), torch.ones(48))
    assert boxes[0][:, 0].all()
    assert not boxes[0][:, -1].any()
    assert any("took on their silhouettes" in note for note in log.notes)
    assert not any("adapt" in note for note in notes)
    assert torch.equal(draw(model, name, cfg=2.0), first)  # every run begins with boxes
    assert regional_of(model).runs == []
    assert (describe(loaded[1]), fingerprint(loaded[1])) == before


def test_the_picture_changes_with_the_regions_and_not_before(loaded, monkeypatch):
    name = loaded[0]
    plain = draw(composed(loaded, 0.0)[0], name)
    assert torch.equal(draw(composed(loaded, 1.0)[0], name), plain)  # only watched

    def same(drawn, recorder, settings):
        return [one.region for one in drawn], "the same"

    def halved(drawn, recorder, settings):
        boxes = Box(0, 0, 0.25, 1), Box(0.75, 0, 1, 1)
        return [Region("x", box=box) for box in boxes], "smaller"

    monkeypatch.setattr(adapt, "silhouettes", same)
    assert torch.equal(draw(composed(loaded, 0.5)[0], name), plain)
    monkeypatch.setattr(adapt, "silhouettes", halved)
    assert not torch.equal(draw(composed(loaded, 0.5)[0], name), plain)


def test_a_cancel_leaves_nothing(loaded, monkeypatch):
    before = describe(loaded[1])

    def interrupt(self, recorder):
        comfy.model_management.interrupt_current_processing()

    monkeypatch.setattr(adapt.Adaptation, "settle", interrupt)
    model, _, _ = composed(loaded, 0.5)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(model, loaded[0])
    comfy.model_management.interrupt_current_processing(False)
    assert regional_of(model).runs == []
    assert describe(loaded[1]) == before
    assert not any(m._forward_pre_hooks for m in loaded[1].model.diffusion_model.modules())
