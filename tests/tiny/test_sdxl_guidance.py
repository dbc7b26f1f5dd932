"""The guidance of the latent on an SDXL-shaped UNet: few of its many layers, all of it led."""

import types

import comfy.conds
import comfy.model_management
import comfy.samplers
import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.compose.conditional_pass import maps_recorded
from mix_of_show.mos_core.patch.compose.gradient import guidance_gradient
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.compose.guided_run import GuidedRun
from mix_of_show.mos_core.patch.compose.map_places import layer_levels, map_layers
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import G_WIDTH, TEXT_WIDTH, UNET, tiny_sdxl, tiny_sdxl_clip

BOXES = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


def text(seed, tokens=77):
    return torch.randn(1, tokens, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


def conditioning(seed):
    pooled = torch.randn(1, G_WIDTH, generator=torch.Generator().manual_seed(seed))
    return [[text(seed), {"pooled_output": pooled}]]


def test_the_middle_block_of_each_spatial_transformer_is_looked_at():
    _, layers = family_of(UNET)
    levels = layer_levels(UNET)
    chosen = map_layers(layers, levels, 2)
    assert len(chosen) == 6  # two down, the middle, three up
    assert {levels[index] for index in chosen} == {2}
    assert len(map_layers(layers, levels, 1)) == 5


@pytest.mark.parametrize("save_memory", [False, True])
def test_regions_lead_the_latent(save_memory):
    model = tiny_sdxl()
    drawn = [
        Drawn(Region(str(i), box=box), RegionText([[text(i), {}]], None), None, (1, 2))
        for i, box in enumerate(BOXES)
    ]
    regions = Regions(128, 128, tuple(one.region for one in drawn))
    log = ComposerLog(regions, ("left", "right"))
    led = add_regional_attention(model, drawn)
    settings = GuidanceSettings(resolution="1/32", save_memory=save_memory)
    add_guidance(led, Guidance(drawn, settings, log))
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    (found,) = nodes.common_ksampler(
        led, 1, 2, 4.0, "euler", "normal", conditioning(8), conditioning(9), latent
    )
    assert torch.isfinite(found["samples"]).all()
    assert len(log.steps) == 2
    assert log.notes == []
    assert log.steps[0].maps.shape == (2, 4, 4)
    assert min(log.steps[0].terms["fill"]) > 0


def begun(model, drawn, resolution="1/32"):
    """(GuidedRun, latent, sigma) in the middle of a sampling with the global text 8."""
    comfy.model_management.load_models_gpu([model])
    model.model.current_patcher = model
    generator = torch.Generator().manual_seed(4)
    y = torch.randn(1, G_WIDTH + 1536, generator=generator)
    conds = {"c_crossattn": comfy.conds.CONDCrossAttn(text(8)), "y": comfy.conds.CONDRegular(y)}
    entry = {"model_conds": conds, "uuid": 0}
    guider = types.SimpleNamespace(inner_model=model.model, conds={"positive": [entry]})
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    arguments = {"model_options": {"transformer_options": options}}
    sigma = model.model.model_sampling.sigmas[500]
    x = torch.randn(1, 4, 16, 16, generator=generator) * (1 + sigma**2).sqrt()
    regions = Regions(128, 128, tuple(one.region for one in drawn))
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    settings = GuidanceSettings(resolution=resolution, largest_change=0.0)
    sigmas = torch.stack([sigma, torch.zeros(())])
    return GuidedRun(drawn, settings, log, guider, x, sigmas, arguments), x, sigma, y


def two_sides(concepts=()):
    """Two regions with texts of their own and two watched words each; concepts: bound, if any."""
    bound = [*concepts, None, None]
    return [
        Drawn(Region(str(i), box=box), RegionText([[text(i), {}]], None), bound[i], (1, 2))
        for i, box in enumerate(BOXES)
    ]


def test_small_regions_take_the_finest_maps_that_the_model_has_and_nothing_else_is_said():
    model, corner = tiny_sdxl(), Box(0, 0, 0.2, 0.2)
    texts = RegionText([[text(0), {}]], None)
    drawn = [Drawn(Region("small", box=corner), texts, None, (1, 2))]
    run, *_ = begun(add_regional_attention(model, drawn), drawn, "auto")
    assert run.places.pixels == 16
    assert run.log.notes == []


@pytest.mark.parametrize("resolution", ["1/32", "1/16"])
def test_the_gradient_agrees_with_finite_differences(resolution):
    """Of all terms together, with isolation and a concept in each region, along the gradient and
    along parts of it."""
    model, clip = tiny_sdxl(), tiny_sdxl_clip()
    pair = [tiny_concept(model, clip, name, seed) for name, seed in (("a", 0), ("b", 1))]
    drawn = two_sides([bind(model, None, entry) for entry in pair])
    led = add_regional_attention(model, drawn, "full", "on")
    run, x, sigma, _ = begun(led, drawn, resolution)

    def found(latent):
        return guidance_gradient(
            run.guider, latent, sigma[None], run.model_options, run.places, GuidanceTerms()
        )

    gradient = found(x).gradient
    left = torch.arange(16) < 8
    for direction in (gradient, gradient.sign(), gradient * left, gradient[:, :2]):
        direction = torch.cat([direction, 0 * x[:, direction.shape[1] :]], 1)
        step = 0.001 * direction / direction.norm() * x.norm() / x.numel() ** 0.5
        change = found(x + step).losses - found(x - step).losses
        expected = 2 * (gradient * step).sum()
        assert change.item() == pytest.approx(expected.item(), rel=0.05, abs=3e-6)
    assert gradient.norm() > 0


def test_maps_equal_a_plain_recomputation():
    """One region over everything with the global text is the plain model: its maps are the plain
    layers' own softmax of queries and keys, of the words that are watched."""
    model = tiny_sdxl()
    drawn = [
        Drawn(
            Region("all", box=Box(0, 0, 1, 1)), RegionText([[text(8), {}]], None), None, (1, 2, 5)
        )
    ]
    led = add_regional_attention(model, drawn)
    run, x, sigma, y = begun(led, drawn)
    recorder = run.places.recorder()
    with maps_recorded(run.guider, x, sigma[None], run.model_options, recorder, save_memory=False):
        ((tokens, own),) = recorder.means(4, 4).values()
    _, layers = family_of(UNET)
    seen, handles, unet = {}, [], model.model.diffusion_model
    chosen = [layers[i].path for i in sorted(run.places.layers)]
    for path in chosen:
        for name in ("attn1.to_q", "attn1.to_k", "attn2.to_q", "attn2.to_k"):
            module = unet.get_submodule(f"{path}.{name}")
            keep = lambda m, a, out, key=(path, name): seen.update({key: out.detach()})  # noqa: E731
            handles.append(module.register_forward_hook(keep))
    with torch.no_grad():
        model.model.apply_model(x, sigma[None], c_crossattn=text(8), y=y)
    for handle in handles:
        handle.remove()

    def probabilities(path, kind):
        q, k = (
            seen[path, f"{kind}.{part}"].unflatten(-1, (-1, 16)).transpose(1, 2)
            for part in ("to_q", "to_k")
        )
        return (q @ k.mT / 4).softmax(-1).mean(1)[0]  # (cells, keys)

    cross = torch.stack([probabilities(path, "attn2") for path in chosen]).mean(0)
    itself = torch.stack([probabilities(path, "attn1") for path in chosen]).mean(0)
    assert len(chosen) == 6
    torch.testing.assert_close(
        tokens[0].flatten(1), cross[:, [1, 2, 5]].T, rtol=1e-4, atol=1e-6, check_device=False
    )
    queries = run.places.cells[0].queries
    torch.testing.assert_close(own[0], itself[queries], rtol=1e-4, atol=1e-6)


REFUSED = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"}
FEW = {  # SDXL's shape with seven layers
    "num_res_blocks": [1, 1, 1],
    "transformer_depth": [0, 1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [0, 0, 1, 1, 1, 1],
}


@pytest.fixture(scope="module")
def few():
    """A UNet that is drawn and led by every sampler in turn."""
    return tiny_sdxl(**FEW)


@pytest.mark.parametrize("name", [n for n in comfy.samplers.SAMPLER_NAMES if n not in REFUSED])
def test_every_sampler_that_is_led_on_sd15_is_led_here(name, few):
    drawn = two_sides()
    log = ComposerLog(Regions(128, 128, tuple(one.region for one in drawn)), ("left", "right"))
    led = add_regional_attention(few, drawn)
    plain = led.clone()
    settings = GuidanceSettings(
        resolution="1/32", step_size=40.0, largest_change=0.0, reinitialise=False
    )
    add_guidance(led, Guidance(drawn, settings, log))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    results = [
        nodes.common_ksampler(
            given, 1, 2, 4.0, name, "normal", conditioning(8), conditioning(9), latent
        )[0]["samples"]
        for given in (led, plain)
    ]
    assert [step.step for step in log.steps] == [0, 1]
    assert torch.isfinite(results[0]).all()
    assert (results[0] - results[1]).abs().max() > 1e-4
