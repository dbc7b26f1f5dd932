"""LoRA-Composer's guidance on ComfyUI's models: the reference's gradients and runs, and manners."""

import comfy.sample
import comfy.samplers
import pytest
import torch

from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.patch.compose.conditional_pass import maps_recorded
from mix_of_show.mos_core.patch.compose.gradient import guidance_gradient
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.compose.guided_run import GuidedRun
from mix_of_show.mos_core.patch.host.autograd import Aliases
from support.composer_models import (
    NEGATIVE,
    POSITIVE,
    begun_sampling,
    composer_drawn,
    composer_model,
    composer_text,
    composer_unet,
)
from support.golden_composer import golden_regions, read_composer_config, read_composer_tensors

SIZE = (32, 64)
SCALE = 0.18215  # of SD1.5's latents
PUBLISHED = {"resolution": "1/32", "largest_change": 0.0}
VARIANTS = {
    "default": GuidanceTerms(),
    "no_gauss": GuidanceTerms(centring=False),
    "no_fill": GuidanceTerms(fill=0),
    "no_bg": GuidanceTerms(restriction=0),
}
GRADIENTS = sorted(
    k.removesuffix(".grad") for k in read_composer_tensors("gradients") if "grad" in k
)


@pytest.fixture(scope="module")
def base():
    """The golden UNet; every test must leave it as it was."""
    return composer_unet()


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def with_guidance(model, layout="main", **settings):
    """The log that the guidance on `model` (changed) will fill."""
    regions = golden_regions(layout)
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**PUBLISHED, **settings})
    add_guidance(model, Guidance(composer_drawn(model, layout), chosen, log))
    return log


def prepare(model, time, layout="main", **settings):
    """A GuidedRun and the reference's latent at a time, as ComfyUI's sampler would have them."""
    guider, arguments = begun_sampling(model)
    sigma = model.model.model_sampling.sigmas[time]
    unit = read_composer_tensors("inputs")[f"latents_t{time}"]
    x = unit * (1 + sigma**2).sqrt()
    regions = golden_regions(layout)
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    chosen = GuidanceSettings(**{**PUBLISHED, **settings})
    drawn = composer_drawn(model, layout)
    sigmas = torch.stack([sigma, torch.zeros(())])
    return GuidedRun(drawn, chosen, log, guider, x, sigmas, arguments), x, sigma


# ----------------------------------------------------------------- the reference's numbers


@pytest.mark.parametrize(
    "name", ["main.mask.t999", "main.mask.t500", "main.nomask.t999", "overlap.mask.t999"]
)
def test_all_maps_equal_the_reference(name, base):
    layout, mask, time = name.split(".")
    model = composer_model(base, layout, isolation="reference" if mask == "mask" else "off")
    run, x, sigma = prepare(model, int(time[1:]), layout)
    recorder = run.places.recorder()
    with maps_recorded(run.guider, x, sigma[None], run.model_options, recorder, False):
        maps = recorder.means(8, 16)
    stored = read_composer_tensors("guidance")
    whole = stored[f"maps.{name}.self"].flatten(2).flatten(0, 1)
    for region, (tokens, own) in maps.items():
        assert relative(tokens[0], stored[f"maps.{name}.tokens"][region]) <= 1e-4
        assert relative(own[0], whole[run.places.cells[region].queries]) <= 1e-4


def test_all_stored_gradients_are_tested():
    assert len(GRADIENTS) == 6


@pytest.mark.parametrize("save_memory", [False, True], ids=["", "recomputed"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_loss_and_gradient_equal_the_reference(name, save_memory, base):
    layout, time, variant = name.split(".")
    model = composer_model(base, layout)
    run, x, sigma = prepare(model, int(time[1:]), layout)
    gradient, losses, *_ = guidance_gradient(
        run.guider, x, sigma[None], run.model_options, run.places, VARIANTS[variant], save_memory
    )
    stored = read_composer_tensors("gradients")
    assert losses.item() == pytest.approx(stored[f"{name}.loss"].item(), abs=1e-4)
    unit = gradient * (1 + sigma**2).sqrt()  # d/d(latent of unit variance)
    assert relative(unit, stored[f"{name}.grad"]) <= 1e-3


@pytest.mark.parametrize(("time", "step", "steps"), [(999, 0, 6), (500, 3, 6)])
def test_the_updated_latent_is_the_references(time, step, steps, base):
    run, x, sigma = prepare(composer_model(base), time)
    stored = read_composer_tensors("gradients")[f"main.t{time}.default.grad"]
    size = read_composer_config()["grads"][f"main.t{time}.default"]["step_size"]
    expected = read_composer_tensors("inputs")[f"latents_t{time}"] - size * stored
    run.sizes = [size]
    run.update(x, sigma[None], 0)
    assert relative(x / (1 + sigma**2).sqrt(), expected) <= 1e-4


def sample_as_the_reference(model, x, sigmas, extra_args=None, callback=None, disable=None):
    """DPM-Solver++(2M) whose first and last step are of first order."""
    before = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i] * x.new_ones(len(x)), **extra_args)
        callback({"x": x, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        now, after = -sigmas[i].log(), -sigmas[i + 1].log()
        target = denoised
        if before is not None and i < len(sigmas) - 2:
            ratio = (now + sigmas[i - 1].log()) / (after - now)
            target = denoised + (denoised - before) / (2 * ratio)
        x = sigmas[i + 1] / sigmas[i] * x - torch.expm1(now - after) * target
        before = denoised
    return x


def run_reference(model, name):
    sigmas = torch.tensor(read_composer_config()["runs"][name]["sigmas_ve"])
    result = comfy.sample.sample_custom(
        model,
        read_composer_tensors("reinit")["latents_in"],
        7.5,
        comfy.samplers.KSAMPLER(sample_as_the_reference),
        sigmas,
        [[composer_text(POSITIVE), {}]],
        [[composer_text(NEGATIVE), {}]],
        torch.zeros(1, 4, *SIZE),
        seed=0,
        callback=lambda *a: None,
        disable_pbar=True,
    )
    return result * SCALE / (1 + sigmas[-1] ** 2).sqrt()


@pytest.mark.parametrize(("name", "near", "losses"), [("run6", 2e-3, 5e-3), ("run12", 1e-2, 2e-2)])
def test_a_whole_guided_run_equals_the_reference(name, near, losses, base):
    model = composer_model(base)
    log = with_guidance(model)
    found = run_reference(model, name)
    expected = [n for n in read_composer_config()["runs"][name]["loss"] if n is not None]
    assert [step.losses[0] for step in log.steps] == pytest.approx(expected, abs=losses)
    final = "latents_final" if name == "run6" else "run12.latents_final"
    assert relative(found, read_composer_tensors("runs")[final]) <= near
    assert log.notes == []


def test_a_weights_alias_is_made_once_in_a_sampling_and_again_where_the_weight_has_moved():
    with torch.inference_mode():
        weight = torch.randn(3)
    aliases = Aliases()
    first = aliases.of(weight)
    assert aliases.of(weight) is first
    assert first.data_ptr() == weight.data_ptr()
    assert not first.is_inference()
    with torch.inference_mode():
        weight.data = torch.zeros(3)
    moved = aliases.of(weight)
    assert moved.data_ptr() == weight.data_ptr()
    assert torch.equal(moved, torch.zeros(3))
