"""Leading the latent under every sampler and in every number type."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.errors import SamplerError
from mix_of_show.mos_core.patch.compose import gradient, guided_run
from support.composer_models import (
    begun_sampling,
    composer_model,
    composer_unet,
)
from support.guiding import (
    SIZE,
    STRONG,
    base,  # noqa: F401 (fixtures)
    draw,
    guided,
    run_of,
    texts,
)

REFUSED = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"}


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
