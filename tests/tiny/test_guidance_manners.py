"""What the guidance does to everything around it: samplers, masks, other nodes, memory, errors."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.patch.compose import gradient, guided_run, map_places
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.composer_models import (
    composer_model,
    composer_positions,
)
from support.golden_composer import golden_regions
from support.guiding import (
    SIZE,
    base,  # noqa: F401 (fixtures)
    draw,
    guided,
    run_of,
    texts,
)
from support.sampling import describe, fingerprint, some_picture, tiny_controlnet, tiny_t2i_adapter

LEVELS = tuple(layer.level for layer in SD15.layers)


# ---------------------------------------------------------------------------- identities


def test_guidance_that_is_switched_off_changes_no_bit(base):
    plain = draw(composer_model(base))
    for off in ({"steps": 0}, {"step_size": 0.0}, {"terms": GuidanceTerms(0, 0, 0)}):
        model, log = guided(base, reinitialise=False, **off)
        assert torch.equal(draw(model), plain)
        assert log.steps == []


def test_guidance_leads_the_latent(base):
    """At the time of the first step, without anything else in between, the loss falls."""
    model, log = guided(base, reinitialise=False, steps=1, step_size=0.5)
    still, still_log = guided(base, reinitialise=False, steps=1, step_size=1e-9)
    draw(model), draw(still)
    assert log.steps[0].losses == pytest.approx(still_log.steps[0].losses)
    again, again_log = guided(base, reinitialise=False, steps=2, step_size=0.5)
    other, other_log = guided(base, reinitialise=False, steps=2, step_size=1e-9)
    draw(again), draw(other)
    assert again_log.steps[1].losses[0] < other_log.steps[1].losses[0]


def test_two_runs_are_equal_and_another_seed_is_not(base):
    model, _ = guided(base)
    first = draw(model)
    assert torch.equal(draw(model), first)
    assert not torch.equal(draw(model, seed=2), first)


def test_pictures_of_a_batch_are_guided_each_as_if_alone(base):
    model, log = guided(base, step_size=2.0)
    noise = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(3))
    together = draw_custom(model, noise)
    assert len(log.steps[0].losses) == 2
    for i in range(2):
        alone = draw_custom(model, noise[i, None])
        assert ((alone[0] - together[i]).norm() / alone.norm()).item() < 1e-3


def draw_custom(model, noise, sampler="euler"):

    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", 3)
    return comfy.sample.sample_custom(
        model, noise, 4.0, comfy.samplers.sampler_object(sampler), sigmas, *texts(),
        torch.zeros_like(noise), seed=0, disable_pbar=True,
    )  # fmt: skip


def test_two_regions_of_one_concept_are_guided_both(base):
    model, log = guided(base, positions=(composer_positions()[0],) * 2 + ((),))
    draw(model, steps=1)
    terms = log.steps[0].terms
    assert terms["fill"][0] > 0
    assert terms["fill"][1] > 0
    assert terms["fill"][2] == 0  # no concept there
    assert terms["restriction"][2] > 0


# ------------------------------------------------------------------ masks, images, controls


def test_a_noise_mask_keeps_its_part_of_the_picture(base):
    model, log = guided(base)
    kept = torch.randn(1, 4, *SIZE, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(1, 1, SIZE[0], SIZE[1])
    mask[..., 16:] = 1
    found = draw(model, samples=kept.clone(), mask=mask)
    assert torch.allclose(found[..., :15], kept[..., :15], atol=1e-4)
    assert not torch.allclose(found[..., 17:], kept[..., 17:], atol=0.1)
    assert len(log.steps) == 3


def test_an_image_to_start_from_is_not_reinitialised(base):
    model, log = guided(base)
    start = torch.randn(1, 4, *SIZE)
    draw(model, samples=start, denoise=0.5)
    assert any("Re-initialisation is left out" in note for note in log.notes)
    assert len(log.steps) == 3


@pytest.mark.parametrize("kind", [tiny_controlnet, tiny_t2i_adapter])
def test_controls_stay_in_force_and_get_no_gradients(kind, base):
    model, log = guided(base, reinitialise=False)
    positive, negative = texts()
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    control = kind()
    controlled = apply(positive, negative, control, some_picture(SIZE), 0.5, 0.0, 1.0)
    plain, found = draw(model), draw(model, texts=controlled)
    assert torch.isfinite(found).all()
    assert (found - plain).abs().max() > 1e-3
    assert len(log.steps) == 3
    weights = getattr(control, "control_model", None) or control.t2i_model
    assert all(p.grad is None for p in weights.parameters())


def test_another_packs_patches_are_seen_by_the_guidance(base):
    model, log = guided(base, reinitialise=False)
    draw(model, steps=1)
    before = log.steps[0].losses
    patched = model.clone()
    patched.set_model_attn1_patch(lambda q, k, v, extra: (q * 0.5, k * 0.5, v))
    draw(patched, steps=1)
    assert log.steps[0].losses != before


@pytest.mark.parametrize("size", [(17, 31), (20, 12)])
def test_sizes_that_are_no_multiple_of_anything_work(size, base):
    model, log = guided(base)
    assert torch.isfinite(draw(model, size=size)).all()
    assert len(log.steps) == 3


def test_guidance_scale_one_works(base):
    model, log = guided(base)
    assert torch.isfinite(draw(model, cfg=1.0)).all()
    assert len(log.steps) == 3


# ------------------------------------------------------------------------- falling back


def test_a_model_that_is_led_is_loaded_whole_where_that_can_be_asked_for(base):
    model, _ = guided(base)
    (load,) = model.wrappers["prepare_sampling"]["mix_of_show_guidance"]
    seen = []
    load(lambda *args, **kwargs: seen.append(kwargs), model, force_full_load=False)
    load(lambda *args, **kwargs: seen.append(kwargs), model)
    assert seen == [{"force_full_load": True}, {}]


def test_a_region_too_small_for_the_maps_is_left_out_and_named(base):
    tiny = Region("a small one", box=Box(0.02, 0.02, 0.08, 0.1))
    regions = Regions(512, 256, (*golden_regions("main").regions[:2], tiny))
    model, log = guided(base, regions=regions, resolution="1/32")
    draw(model, steps=1)
    assert any("'a small one' is smaller than every cell" in note for note in log.notes)
    assert log.steps[0].terms["restriction"][2] == 0


def test_a_resolution_without_layers_falls_back_and_says_so(base, monkeypatch):
    monkeypatch.setattr(
        map_places, "layer_levels", lambda *a: tuple(min(level, 2) for level in LEVELS)
    )
    model, log = guided(base, resolution="1/64")
    draw(model, steps=1)
    assert "maps of 1/64 of the picture; those of 1/32 are used" in log.notes[0]


def test_the_automatic_resolution_looks_closer_where_regions_are_small(base):
    boxes = [Box(0.0, 0.0, 0.25, 1.0), Box(0.25, 0.0, 0.5, 1.0), Box(0.5, 0.0, 1.0, 1.0)]
    regions = Regions(512, 256, tuple(Region(str(i), box=box) for i, box in enumerate(boxes)))
    model, log = guided(base, regions=regions, resolution="auto")
    draw(model, steps=1, size=(16, 32))
    assert log.steps[0].maps.shape[1:] == (8, 16)  # 1/32 has 4 x 2 cells in a region
    draw(model, steps=1, size=(32, 64))
    assert log.steps[0].maps.shape[1:] == (8, 16)  # 1/32, as published


# ------------------------------------------------------------------------------- manners


def test_nothing_is_left_behind(base):
    before, weights = describe(base), fingerprint(base)
    model, _ = guided(base)
    state = describe(model)
    unet = base.model.diffusion_model
    modules = {name: (id(m), list(m.__dict__)) for name, m in unet.named_modules()}
    asks = [p.requires_grad for p in unet.parameters()]
    draw(model)
    assert describe(base) == before
    assert fingerprint(base) == weights
    assert describe(model) == state
    assert {name: (id(m), list(m.__dict__)) for name, m in unet.named_modules()} == modules
    assert [p.requires_grad for p in unet.parameters()] == asks
    assert all(p.grad is None for p in unet.parameters())


@pytest.mark.parametrize("moment", ["forward", "backward"])
def test_a_cancel_in_the_middle_of_the_guidance_restores_everything(moment, base, monkeypatch):
    model, _ = guided(base, reinitialise=False)
    sampler = comfy.samplers.sampler_object("euler")
    own = sampler.sampler_function
    weights, state = fingerprint(base), describe(model)
    expected = draw(model)

    def stop(*args, **kwargs):
        raise comfy.model_management.InterruptProcessingException

    target = {"forward": (gradient, "region_loss"), "backward": (guided_run, "GuidedStep")}
    monkeypatch.setattr(*target[moment], stop)
    noise = torch.randn(1, 4, *SIZE)
    sigmas = torch.tensor([2.0, 1.0, 0.0])
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample_custom(
            model, noise, 4.0, sampler, sigmas, *texts(), torch.zeros_like(noise), seed=0
        )
    monkeypatch.undo()
    assert sampler.sampler_function is own
    assert fingerprint(base) == weights
    assert describe(model) == state
    assert torch.equal(draw(model), expected)
    assert torch.is_inference_mode_enabled()


def test_an_interrupt_ends_it_before_the_next_step(base):
    model, log = guided(base)

    def interrupt(step, *args):
        comfy.model_management.interrupt_current_processing()

    noise = torch.randn(1, 4, *SIZE)
    sigmas = torch.tensor([2.0, 1.5, 1.0, 0.0])
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        comfy.sample.sample_custom(
            model, noise, 4.0, comfy.samplers.sampler_object("euler"), sigmas, *texts(),
            torch.zeros_like(noise), seed=0, callback=interrupt,
        )  # fmt: skip
    comfy.model_management.interrupt_current_processing(False)
    assert len(log.steps) == 1


def test_previews_go_on(base):
    model, _ = guided(base)
    seen = []

    noise = torch.randn(1, 4, *SIZE)
    comfy.sample.sample_custom(
        model, noise, 4.0, comfy.samplers.sampler_object("euler"),
        torch.tensor([2.0, 1.0, 0.0]), *texts(), torch.zeros_like(noise), seed=0,
        callback=lambda i, denoised, x, total: seen.append((i, total)), disable_pbar=True,
    )  # fmt: skip
    assert seen == [(0, 2), (1, 2)]


def test_the_log_begins_anew_with_every_sampling(base):
    model, log = guided(base)
    draw(model, steps=3)
    draw(model, steps=2)
    assert log.total_steps == len(log.steps) == 2


def test_no_step_goes_farther_than_the_largest_change(base):
    limit, sigma = 0.05, torch.tensor(5.0)
    model, _ = guided(base, largest_change=limit)
    comfy.model_management.load_models_gpu([model])
    run = run_of(model, largest_change=limit)
    gradient = torch.randn(2, 4, *SIZE, generator=torch.Generator().manual_seed(0))
    gradient[1] *= 1e-6  # far below the limit
    sizes = run._step_size(gradient, sigma.expand(2), 0)
    change = gradient * sizes[:, None, None, None] / (1 + sigma**2).sqrt()  # of unit variance
    assert change[0].square().mean().sqrt().item() == pytest.approx(limit, rel=1e-4)
    assert sizes[1].item() == pytest.approx(40.0 * (1 + 25.0))
