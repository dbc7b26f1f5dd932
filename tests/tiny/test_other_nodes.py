"""Regions beside ComfyUI's own nodes that reorder, cache, tile, merge or lengthen."""

import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    DualCFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import PerpNeg, PerpNegGuider
from comfy_extras.nodes_sag import SelfAttentionGuidance

import nodes
from mix_of_show.mos_core.patch.regional.roles import NEGATIVE, OTHER, POSITIVE, role_of
from mix_of_show.mos_core.regions.region import Region, Regions
from mix_of_show.nodes.sample import RegionalAttention
from support.beside import GN, QUIET, TOLERANCE, WHOLE, G, N, P, composed, ksample
from support.golden import relative_error
from support.sampling import encode, sample


def whole(unet, clip):
    """Over the whole canvas a region is the plain prompt (test_regional.py says so)."""
    return RegionalAttention.execute(unet, clip, Regions(128, 128, (Region(P, N, box=WHOLE),)))[0]


def custom(model, guider):
    sigmas = BasicScheduler.execute(model, "normal", 2, 1.0)[0]
    return SamplerCustomAdvanced.execute(
        RandomNoise.execute(3)[0],
        guider,
        KSamplerSelect.execute("euler")[0],
        sigmas,
        {"samples": torch.zeros(1, 4, 16, 16)},
    )[0]["samples"]


# --------------------------------------------------------------- which prompt a pass draws


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_two_positive_prompts_both_draw_the_regions_prompt(style, unet, clip):
    def run(model, first, second, negative):
        texts = (encode(clip, text) for text in (first, second, negative))
        return custom(model, DualCFGGuider.execute(model, *texts, 5.0, 3.0, style)[0])

    found = run(whole(unet, clip), G, G, GN)
    assert relative_error(found, run(unet, P, P, N)) <= TOLERANCE


def test_a_pass_with_an_empty_prompt_of_its_own_draws_that_in_the_regions_too(unet, clip):
    def guided(model, positive, negative):
        texts = (encode(clip, text) for text in (positive, negative, ""))
        return custom(model, PerpNegGuider.execute(model, *texts, 5.0, 1.0)[0])

    found = guided(whole(unet, clip), G, GN)
    assert relative_error(found, guided(unet, P, N)) <= TOLERANCE

    def patched(model, positive, negative):
        model = PerpNeg.execute(model, encode(clip, ""), 1.0)[0]
        return sample(model, encode(clip, positive), encode(clip, negative))

    found = patched(whole(unet, clip), G, GN)
    assert relative_error(found, patched(unet, P, N)) <= TOLERANCE


@pytest.mark.parametrize(
    "node",
    [
        lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0)[0],
        lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
    ],
    ids=["self-attention guidance", "perturbed attention"],
)
def test_post_cfg_functions_that_run_a_prompt_again_draw_it_in_the_regions(node, unet, clip):
    found = sample(node(whole(unet, clip)), encode(clip, G), encode(clip, GN))
    plain = sample(node(unet), encode(clip, P), encode(clip, N))
    assert relative_error(found, plain) <= TOLERANCE


class Backwards(comfy.samplers.CFGGuider):
    """A guider of another pack that runs its positive prompt last."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("negative", "positive")]
        negative, positive = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        return negative + 4.0 * (positive - negative)


def test_a_guider_may_run_its_prompts_in_any_order(unet, clip):
    def run(kind, model, positive, negative):
        guider = kind(model)
        guider.set_conds(encode(clip, positive), encode(clip, negative))
        guider.set_cfg(4.0)
        return custom(model, guider)

    found = run(Backwards, whole(unet, clip), G, GN)
    assert relative_error(found, run(comfy.samplers.CFGGuider, unet, P, N)) <= TOLERANCE


def test_areas_whose_negative_is_copied_from_another_keep_both_roles(unet, clip):
    def areas(prompt):
        (left,) = nodes.ConditioningSetArea().append(encode(clip, prompt), 64, 128, 0, 0, 1.0)
        return [*left, *encode(clip, prompt)]

    found = sample(whole(unet, clip), areas(G), encode(clip, GN))
    assert relative_error(found, sample(unet, areas(P), encode(clip, N))) <= TOLERANCE


def test_roles_by_a_guiders_names():
    assert role_of("middle", ["positive", "middle", "negative"]) == POSITIVE
    assert role_of("negative", ["positive", "negative"]) == NEGATIVE
    assert role_of("empty_negative_prompt", ["positive", "empty_negative_prompt"]) == OTHER
    assert role_of("mine", ["mine", "yours"]) == POSITIVE
    assert role_of("yours", ["mine", "yours"]) == OTHER


def test_the_conditionings_of_a_guider_are_not_marked_for_good(unet, clip):
    model = whole(unet, clip)
    guider = CFGGuider.execute(model, encode(clip, G), encode(clip, GN), 4.0)[0]
    custom(model, guider)
    for entries in guider.original_conds.values():
        assert all(not entry.get("model_conds") for entry in entries)


# ------------------------------------------------------------------------- model samplings


@pytest.mark.parametrize(
    "node",
    [
        lambda model: ModelSamplingDiscrete().patch(model, "lcm", False)[0],
        lambda model: ModelSamplingDiscrete().patch(model, "eps", True)[0],
        lambda model: ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0],
    ],
    ids=["lcm", "zsnr", "continuous"],
)
def test_a_start_in_the_middle_is_known_in_every_parametrisation(node, unet, clip, concepts):
    model, text, log = composed(node(unet), clip, concepts)
    ksample(model, text, 2, "euler", "sgm_uniform", cfg=1.0, denoise=0.3)
    assert any("Re-initialisation is left out" in note for note in log.notes)
    ksample(model, text, 2, "euler", "sgm_uniform", cfg=1.0)
    assert not any("Re-initialisation" in note for note in log.notes)


# ---------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_caches_of_steps_do_not_see_the_passes_that_lead_the_latent(node, unet, clip, concepts):
    cached = node.execute(unet, 0.2, 0.15, 0.95, False)[0]
    model, text, log = composed(cached, clip, concepts)
    assert torch.isfinite(ksample(model, text, steps=6)).all()
    assert len(log.steps) == 6


def test_other_packs_wrappers_run_once_a_step_whether_the_latent_is_led_or_not(
    unet, clip, concepts
):
    kinds = comfy.patcher_extension.WrappersMP
    counted = {}

    def counting(kind):
        def wrapper(executor, *args, **kwargs):
            counted[kind] = counted.get(kind, 0) + 1
            return executor(*args, **kwargs)

        return wrapper

    def run(**options):
        counted.clear()
        model, text, _ = composed(unet, clip, concepts, **options)
        for kind in (kinds.CALC_COND_BATCH, kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL):
            model.add_wrapper_with_key(kind, "counting", counting(kind))

        def note(apply_model, arguments):
            counted["function"] = counted.get("function", 0) + 1
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        model.set_model_unet_function_wrapper(note)
        ksample(model, text, steps=3)
        return dict(counted)

    led = run()
    assert set(led.values()) == {3}
    assert led == run(**QUIET)


def test_noise_of_another_packs_patch_is_not_used_up_by_the_passes_that_lead(unet, clip, concepts):
    drawn = []

    def noisy(n, context, value, extra):
        if extra["block"] == ("middle", 0):
            drawn.append(torch.rand(()).item())
        return n, context, value

    def run(**options):
        drawn.clear()
        model, text, _ = composed(unet, clip, concepts, **options)
        model.set_model_attn1_patch(noisy)
        torch.manual_seed(3)
        ksample(model, text, steps=2)
        return list(drawn)

    led, plain = run(reinitialise=False), run(**QUIET)
    assert len(led) == 4
    assert led[1::2] == plain  # (before each step, one that leads)
