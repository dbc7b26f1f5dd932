"""What the guidance does to everything around it: samplers, masks, other nodes, memory, errors."""

import types

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.errors import SamplerError
from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.patch.compose import gradient, guided_run
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.composer_models import (
    NEGATIVE,
    POSITIVE,
    begun_sampling,
    composer_model,
    composer_positions,
    composer_text,
    composer_unet,
)
from support.golden_composer import golden_regions
from support.sampling import describe, fingerprint, some_picture, tiny_controlnet, tiny_t2i_adapter

SIZE = (16, 32)
LEVELS = tuple(layer.level for layer in SD15.layers)
REFUSED = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"}
STRONG = {"step_size": 40.0, "largest_change": 0.0, "resolution": "1/16"}


@pytest.fixture(scope="module")
def base():
    """The golden UNet; every test must leave it as it was."""
    return composer_unet()


def guided(base, positions=None, regions=None, **settings):
    """(MODEL, its log)"""
    model = composer_model(base)
    regions = regions or golden_regions("main")
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**STRONG, **settings})
    add_guidance(model, Guidance(watched(regions, positions), chosen, log))
    return model, log


def watched(regions, positions=None):
    """The regions with the places of their tokens, which is all that the guidance asks for."""
    text = RegionText(None, None)
    places = positions or composer_positions()
    return [
        Drawn(region, text, None, own) for region, own in zip(regions.regions, places, strict=True)
    ]


def texts():
    return [[composer_text(POSITIVE), {}]], [[composer_text(NEGATIVE), {}]]


def draw(
    model, steps=3, sampler="euler", cfg=4.0, size=SIZE, seed=1, batch=1, mask=None, **options
):
    latent = {"samples": options.pop("samples", torch.zeros(batch, 4, *size))}
    if mask is not None:
        latent["noise_mask"] = mask
    positive, negative = options.pop("texts", None) or texts()
    (result,) = nodes.common_ksampler(
        model, seed, steps, cfg, sampler, "normal", positive, negative, latent, **options
    )
    return result["samples"]


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


# ------------------------------------------------------------------------------ samplers


@pytest.mark.parametrize("name", [n for n in comfy.samplers.SAMPLER_NAMES if n not in REFUSED])
def test_every_sound_sampler_runs_and_is_led_in_every_step(name, base):
    model, log = guided(base, reinitialise=False)
    plain = draw(composer_model(base), sampler=name, steps=2, size=(8, 16))
    found = draw(model, sampler=name, steps=2, size=(8, 16))
    assert [step.step for step in log.steps] == [0, 1]
    assert torch.isfinite(found).all()
    assert (found - plain).abs().max() > 1e-3


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_an_unsound_sampler_is_refused_by_name_while_guidance_is_on(name, base):
    model, _ = guided(base)
    with pytest.raises(SamplerError, match=f"'{name}' .* set guidance_steps to 0"):
        draw(model, sampler=name)
    off, _ = guided(base, steps=0)
    assert torch.isfinite(draw(off, sampler=name)).all()


def test_a_sampler_with_a_way_of_its_own_is_refused(base):

    class Own(comfy.samplers.Sampler):
        def sample(self, *args, **kwargs):
            raise AssertionError("ran")

    model, _ = guided(base)
    noise = torch.randn(1, 4, *SIZE)
    sigmas = torch.tensor([2.0, 1.0, 0.0])
    with pytest.raises(SamplerError, match="'Own' steps in a way of its own"):
        comfy.sample.sample_custom(
            model, noise, 4.0, Own(), sigmas, *texts(), torch.zeros_like(noise), seed=0
        )


def test_the_ways_to_sample_agree(base):
    """KSampler, SamplerCustom and SamplerCustomAdvanced draw the same."""
    from comfy_extras import nodes_custom_sampler as custom

    model, _ = guided(base)
    expected = draw(model)
    positive, negative = texts()
    sigmas = comfy.samplers.calculate_sigmas(model.model.model_sampling, "normal", 3)
    sampler = comfy.samplers.sampler_object("euler")
    latent = {"samples": torch.zeros(1, 4, *SIZE)}

    def call(node, **arguments):
        run = node.execute if hasattr(node, "execute") else getattr(node(), node.FUNCTION)
        result = run(**arguments)
        return (result.args if hasattr(result, "args") else result)[0]

    one = call(
        custom.SamplerCustom, model=model, add_noise=True, noise_seed=1, cfg=4.0,
        positive=positive, negative=negative, sampler=sampler, sigmas=sigmas, latent_image=latent,
    )  # fmt: skip
    assert torch.equal(one["samples"], expected)
    guider = call(custom.CFGGuider, model=model, positive=positive, negative=negative, cfg=4.0)
    noise = call(custom.RandomNoise, noise_seed=1)
    two = call(
        custom.SamplerCustomAdvanced, noise=noise, guider=guider, sampler=sampler, sigmas=sigmas,
        latent_image=latent,
    )  # fmt: skip
    assert torch.equal(two["samples"], expected)


def test_a_sampling_in_two_parts_goes_on_with_the_schedule(base):
    model, log = guided(base)
    draw(model, steps=4, start_step=0, last_step=2, force_full_denoise=False)
    first = [step.sigma for step in log.steps]
    draw(model, steps=4, start_step=2, disable_noise=True)
    second = [step.sigma for step in log.steps]
    assert len(first) == len(second) == 2
    assert min(first) > max(second)
    assert any("Re-initialisation is left out" in note for note in log.notes)


def test_the_second_half_of_the_schedule_takes_the_second_half_of_the_step_sizes(base):
    model, _ = guided(base)
    comfy.model_management.load_models_gpu([model])
    sampling = model.model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "normal", 20)

    def sizes(part):
        return run_of(model, part, **STRONG).sizes

    whole = sizes(sigmas)
    assert whole[0] == pytest.approx(40.0)
    assert whole[-1] == pytest.approx(40.0 * 0.5**0.5)
    assert sizes(sigmas[10:])[0] == pytest.approx(whole[10], rel=0.02)
    assert sizes(sigmas[10:])[-1] == pytest.approx(whole[-1], rel=0.02)


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


# ------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_leads_nearly_as_full_precision(dtype, base):
    half = composer_unet(dtype)
    model, log = guided(half, reinitialise=False)
    full, full_log = guided(base, reinitialise=False)
    found = draw(model, steps=2)
    draw(full, steps=2)
    assert torch.isfinite(found).all()
    assert log.notes == []
    assert log.steps[0].losses[0] == pytest.approx(full_log.steps[0].losses[0], rel=0.02)


def test_gradients_in_half_precision_are_near_the_full_ones(base):
    """float16 with its loss scaling, bfloat16 without."""
    full = gradient_of(base)
    for dtype, near in ((torch.float16, 0.1), (torch.bfloat16, 0.5)):
        half = gradient_of(composer_unet(dtype))
        assert half.dtype == torch.float32
        assert torch.isfinite(half).all()
        assert ((half - full).norm() / full.norm()).item() < near


def gradient_of(unet):
    """At noise, with a scaled loss in float16 as a sampling takes it."""
    model = composer_model(unet)
    guider, arguments = begun_sampling(model)
    run = run_of(model, guider=guider, arguments=arguments)
    sampling = model.model.model_sampling
    sigma, nothing = sampling.sigmas[-1:], torch.zeros(1, 4, *SIZE)
    x = sampling.noise_scaling(sigma, comfy.sample.prepare_noise(nothing, 1), nothing, True)
    found = gradient.guidance_gradient(
        guider, x, sigma, run.model_options, run.places, GuidanceTerms(), False,
        run.scale,
    )  # fmt: skip
    return found.gradient


def break_gradients(monkeypatch, when):
    own = gradient.guidance_gradient

    def broken(*args, **kwargs):
        found = own(*args, **kwargs)
        broken.calls += 1
        if when(broken.calls):
            found = found._replace(gradient=found.gradient * float("nan"))
        return found

    broken.calls = 0
    monkeypatch.setattr(guided_run, "guidance_gradient", broken)


def test_a_gradient_that_is_no_number_skips_its_step_and_is_reported(base, monkeypatch):
    model, log = guided(base, reinitialise=False)
    expected = draw(composer_model(base))
    break_gradients(monkeypatch, lambda call: True)
    assert torch.equal(draw(model), expected)
    assert [step.skipped for step in log.steps] == [True] * 3
    assert "the gradient in step 1 was no finite number" in log.notes[0]


def test_the_steps_after_a_skipped_one_are_led_again(base, monkeypatch):
    model, log = guided(base, reinitialise=False)
    break_gradients(monkeypatch, lambda call: call == 2)
    plain = draw(composer_model(base))
    assert not torch.equal(draw(model), plain)
    assert [step.skipped for step in log.steps] == [False, True, False]


def test_memory_that_runs_out_is_spared(base, monkeypatch):
    model, _ = guided(base)
    expected = draw(model)
    own, used = gradient.guidance_gradient, []

    def short(*args, save_memory, **kwargs):
        used.append(save_memory)
        if not save_memory:
            raise comfy.model_management.OOM_EXCEPTION("out of memory")
        return own(*args, save_memory=save_memory, **kwargs)

    monkeypatch.setattr(guided_run, "guidance_gradient", short)
    assert torch.allclose(draw(model), expected, atol=1e-4)
    assert used == [False, True, True, True]  # the first step twice


def test_little_memory_is_seen_beforehand(base, monkeypatch):
    model, _ = guided(base)
    monkeypatch.setattr(comfy.model_management, "get_free_memory", lambda device: 1e5)
    comfy.model_management.load_models_gpu([model])
    run = run_of(model)
    assert run.save_memory
    monkeypatch.undo()
    assert not run_of(model).save_memory


def run_of(model, sigmas=None, guider=None, arguments=None, **settings):
    """A GuidedRun as a sampling would begin it."""
    guider = guider or types.SimpleNamespace(inner_model=model.model, conds={})
    sigmas = torch.tensor([14.6, 0.0]) if sigmas is None else sigmas
    regions = golden_regions("main")
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**STRONG, **settings})
    x = torch.zeros(1, 4, *SIZE)
    return guided_run.GuidedRun(watched(regions), chosen, log, guider, x, sigmas, arguments or {})


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
        guided_run, "layer_levels", lambda *a: tuple(min(level, 2) for level in LEVELS)
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
