"""LoRA-Composer's guidance on diffusion transformers: maps, gradients, and what it leaves as it
was."""

from dataclasses import replace

import comfy.model_management
import comfy.patcher_extension
import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import ALONE_IMAGE, CROSS, JOINT
from mix_of_show.mos_core.patch.compose import gradient as gradients
from mix_of_show.mos_core.patch.compose.conditional_pass import maps_recorded
from mix_of_show.mos_core.patch.compose.gradient import guidance_gradient
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.compose.guided_run import GuidedRun, update_scale
from mix_of_show.mos_core.patch.compose.map_places import spread_layers
from mix_of_show.mos_core.patch.regional.joint_attention import GroupedAttention
from mix_of_show.mos_core.regions.region import Regions
from support.dit_models import TINY, dit_conditioning, dit_latent, draw_dit, tiny_dit
from support.dit_regions import LEFT, RIGHT, random_lora, region, text_of, with_regions

WrappersMP = comfy.patcher_extension.WrappersMP
SIZE = (16, 16)
STRONG = {"step_size": 40.0, "largest_change": 0.0, "resolution": "1/16", "reinitialise": False}
WORDS = ((1, 3), (-2,))  # of each region's concept in its own text, from its start or its end
KINDS = ("flux", "z_image", "qwen_image", "cosmos")  # a joint attention, two with time, a cross one


@pytest.fixture(params=TINY)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return tiny_dit(name)


def prompts(name):
    return dit_conditioning(name, 1), dit_conditioning(name, 2)


def sides(name, model):
    drawn = (
        region(LEFT, text_of(name, 3, 4), random_lora(model, 1)),
        region(RIGHT, text_of(name, 5, None, 14), random_lora(model, 2)),
    )
    return tuple(replace(one, positions=own) for one, own in zip(drawn, WORDS, strict=True))


def led(name, model, isolation="on", **settings):
    """(MODEL with both sides, which is led; its log)"""
    drawn = sides(name, model)
    log = ComposerLog(Regions(128, 128, tuple(one.region for one in drawn)), ("left", "right"))
    patched = with_regions(model, drawn, isolation)
    chosen = GuidanceSettings(**{**STRONG, **settings})
    add_guidance(patched, Guidance(drawn, chosen, log, isolation))
    return patched, log


def in_sampling(name, model, ask, isolation="on", **settings):
    """What `ask(run, x, sigma)` gives inside of a sampling with both sides; x: the latent."""
    drawn = sides(name, model)
    patched = with_regions(model, drawn, isolation)
    answers = []

    def wrap(executor, guider, sigmas, extra_args, *args, **kwargs):
        x = torch.randn(dit_latent(name, SIZE).shape, generator=torch.Generator().manual_seed(3))
        regions = Regions(128, 128, tuple(one.region for one in drawn))
        log = ComposerLog(regions, ("left", "right"))
        chosen = GuidanceSettings(**{**STRONG, **settings})
        run = GuidedRun(drawn, chosen, log, guider, x, sigmas, extra_args, isolation)
        answers.append(ask(run, x, sigmas[:1]))
        return executor(guider, sigmas, extra_args, *args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "test", wrap)
    draw_dit(patched, name, *prompts(name), size=SIZE, steps=1)
    return answers[0]


def ask_gradient(run, x, sigma, save_memory=True, terms=GuidanceTerms()):  # noqa: B008
    return guidance_gradient(
        run.guider, x, sigma, run.model_options, run.places, terms, save_memory=save_memory
    )


# ------------------------------------------------------------------------------------------- maps


@pytest.mark.parametrize("resolution", ["1/16", "1/32"])
def test_maps_are_those_of_a_plain_recomputation(name, model, resolution, monkeypatch):
    """From queries and keys as the model hands them over, token by token."""
    seen = []
    attend = GroupedAttention.__call__

    def keep(self, func, q, k, v, heads, *args, **kwargs):
        if self.watch is not None and self.running is not None:
            along = 2 if kwargs.get("skip_reshape") else 1
            split = [
                t if along == 2 else t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k)
            ]
            seen.append((self.running, self.number, *split))
        return attend(self, func, q, k, v, heads, *args, **kwargs)

    monkeypatch.setattr(GroupedAttention, "__call__", keep)

    def ask(run, x, sigma):
        seen.clear()
        recorder = run.places.recorder()
        with maps_recorded(run.guider, x, sigma, run.model_options, recorder, False):
            return recorder.means(*run.places.grid), run.places, recorder.kinds, list(seen)

    maps, places, kinds, calls = in_sampling(name, model, ask, "off", resolution=resolution)
    assert max(n for kind, n, *_ in calls if kind in kinds) == max(places.layers)  # ends there
    family, _ = family_of(model.model.model_config.unet_config)
    tokens = SIZE[0] // family.latent.patch
    step = tokens // places.grid[0]
    assert step == (1 if resolution == "1/16" else 2)
    texts = text_lengths(name, model)
    for region_number, (words, cells_seen) in maps.items():
        found_words, found_own = [], []
        for kind, number, q, k in calls:
            if number not in places.layers or kind not in kinds:
                continue
            q, k = q[0].double(), k[0].double()
            k = k.repeat_interleave(len(q) // len(k), 0)
            start = sum(texts) if kind == JOINT else 0
            q, cells = coarse(q[:, start : start + tokens**2], tokens, step), None
            if kind != CROSS:
                cells = coarse(k[:, start : start + tokens**2], tokens, step)
                logits = q @ cells.transpose(1, 2) / q.shape[-1] ** 0.5
                found_own.append(logits.softmax(-1).mean(0))
            if kind != ALONE_IMAGE:
                at = sum(texts[: region_number + 1])
                keys = k[:, at : at + texts[region_number + 1]]
                logits = q @ keys.transpose(1, 2) / q.shape[-1] ** 0.5
                count = TINY[name].text or (9, 14)[region_number]  # without the model's padding
                own = [position % count for position in WORDS[region_number]]
                found_words.append(logits.softmax(-1).mean(0)[:, own])
        queries = places.cells[region_number].queries
        assert len(found_words) == len(found_own) == len(places.layers)
        expected = torch.stack(found_words).mean(0).T.unflatten(1, places.grid)
        assert torch.allclose(words[0].double(), expected, atol=1e-5)
        expected = torch.stack(found_own).mean(0)[queries]
        assert torch.allclose(cells_seen[0].double(), expected, atol=1e-5)


def coarse(tokens, side, step):
    """(heads, side * side, width) -> means of step * step of them."""
    return tokens.unflatten(1, (side // step, step, side // step, step)).mean((2, 4)).flatten(1, 2)


def text_lengths(name, model):
    """Tokens of the global text and of both sides' as the model has them in its sequence."""
    multiple = getattr(model.model.diffusion_model, "pad_tokens_multiple", None) or 1
    lengths = [TINY[name].text or 9, *((TINY[name].text or n) for n in (9, 14))]
    return [-(-n // multiple) * multiple for n in lengths]


def test_at_most_eight_layers_of_any_depth_are_looked_at():
    for count in range(1, 80):
        layers = spread_layers(count)
        assert 1 <= len(layers) <= 8
        assert layers == sorted(set(layers))
        assert 0 <= layers[0] <= layers[-1] < max(1, -(-count // 2))
    assert spread_layers(57) == [8, 11, 14, 17, 19, 22, 25, 28]


# -------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("isolation", ["on", "off"])
def test_the_gradient_agrees_with_finite_differences(name, model, isolation):
    def ask(run, x, sigma):
        found = ask_gradient(run, x, sigma)
        along = found.gradient / found.gradient.norm()
        both = [ask_gradient(run, x + side * 0.02 * along, sigma).losses.item() for side in (1, -1)]
        return found.gradient.norm().item(), (both[0] - both[1]) / 0.04

    norm, difference = in_sampling(name, model, ask, isolation)
    assert norm > 0
    assert difference == pytest.approx(norm, rel=0.05)


def test_blocks_computed_again_give_the_same_gradient(name, model):
    again, kept = in_sampling(
        name, model, lambda *a: [ask_gradient(*a, save_memory=s) for s in (True, False)]
    )
    assert torch.equal(again.losses, kept.losses)
    assert torch.allclose(again.gradient, kept.gradient, rtol=1e-4, atol=1e-7)


def test_every_term_counts_and_isolation_is_counted_in(name, model):
    def ask(run, x, sigma):
        off = GuidanceTerms(enhancement=0, fill=0, restriction=0)
        return [
            ask_gradient(run, x, sigma, terms=replace(off, **{term: 1.0})).losses.item()
            for term in ("enhancement", "fill", "restriction")
        ]

    assert min(in_sampling(name, model, ask, "off")) > 0
    *others, restriction = in_sampling(name, model, ask)
    assert min(others) > 0
    assert restriction == 0  # the sides do not see each other, and there is nothing else


# -------------------------------------------------------------------------------------- samplings


@pytest.mark.parametrize("name", KINDS)
def test_led_steps_lower_the_loss_and_leave_the_model_as_it_was(name):
    model = tiny_dit(name)
    before = {key: value.clone() for key, value in model.model.state_dict().items()}
    plain = draw_dit(model, name, *prompts(name), steps=4)
    unled = draw_dit(with_regions(model, sides(name, model)), name, *prompts(name), steps=4)
    patched, log = led(name, model)
    found = draw_dit(patched, name, *prompts(name), steps=4)
    assert not torch.equal(found, unled)
    assert torch.isfinite(found).all()
    assert [step.step for step in log.steps] == [0, 1, 2, 3]
    assert not log.notes
    assert torch.equal(draw_dit(patched, name, *prompts(name), steps=4), found)
    still, still_log = led(name, model, step_size=1e-12)
    draw_dit(still, name, *prompts(name), steps=4)
    assert log.steps[-1].losses[0] < still_log.steps[-1].losses[0]
    assert torch.equal(draw_dit(model, name, *prompts(name), steps=4), plain)
    assert all(torch.equal(value, before[key]) for key, value in model.model.state_dict().items())


@pytest.mark.parametrize("name", KINDS)
def test_noise_is_rearranged_before_the_first_step(name, model):
    unled = draw_dit(with_regions(model, sides(name, model)), name, *prompts(name))
    patched, log = led(name, model, steps=0, reinitialise=True)
    found = draw_dit(patched, name, *prompts(name))
    assert not torch.equal(found, unled)
    assert not log.steps
    assert not log.notes


@pytest.mark.parametrize("name", ["flux", "cosmos"])
@pytest.mark.parametrize("sampler", ["euler_ancestral", "dpmpp_2m", "heun", "res_multistep"])
def test_samplers_of_flows_are_led(name, sampler):
    patched, log = led(name, tiny_dit(name))
    positive, negative = prompts(name)
    latent = {"samples": dit_latent(name, SIZE)}
    (found,) = nodes.common_ksampler(
        patched, 1, 3, 2.0, sampler, "simple", positive, negative, latent
    )
    assert torch.isfinite(found["samples"]).all()
    assert [step.step for step in log.steps] == [0, 1, 2]


@pytest.mark.parametrize("name", KINDS)
def test_two_pictures_in_a_batch_are_led_each_for_itself(name, model):
    one, _ = led(name, model)
    first = draw_dit(one, name, *prompts(name), batch=1)
    both = draw_dit(one, name, *prompts(name), batch=2)
    assert torch.allclose(both[:1], first, atol=1e-3 * float(first.std()))


def test_a_cancel_inside_of_a_led_step_leaves_nothing_behind(monkeypatch):
    model = tiny_dit("flux")
    modules = list(model.model.diffusion_model.modules())
    plain = draw_dit(model, "flux", *prompts("flux"))
    patched, _ = led("flux", model)

    def stop(*args):
        raise comfy.model_management.InterruptProcessingException

    monkeypatch.setattr(gradients, "region_loss", stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw_dit(patched, "flux", *prompts("flux"))
    monkeypatch.undo()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in modules)
    assert not any("forward" in m.__dict__ for m in modules)
    assert torch.equal(draw_dit(model, "flux", *prompts("flux")), plain)


def test_the_scale_is_the_variance_of_what_the_sampler_holds():
    sigma = torch.tensor([0.25, 7.0])

    class Noise:
        def noise_scaling(self, sigma, noise, clean):
            return clean + sigma * noise

    class Flow:
        def noise_scaling(self, sigma, noise, clean):
            return (1 - sigma) * clean + sigma * noise

    assert update_scale(Noise(), sigma).tolist() == [1.0625, 50.0]
    assert update_scale(Flow(), sigma[:1]).tolist() == [0.625]
    sampling = tiny_dit("flux").get_model_object("model_sampling")
    assert update_scale(sampling, sigma[:1]).tolist() == [0.625]
