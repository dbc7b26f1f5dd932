"""Wide conditionings in ComfyUI's own conditioning nodes and samplers, with ControlNets and other
packs' attention patches."""

import pytest
import torch
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)

import nodes
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from support.conditionings import (
    GRAPHS,
    H,
    W,
    average,
    combine,
    concat,
    during,
    left_half,
    loud,  # noqa: F401 (fixtures)
    masked,
)
from support.golden import relative_error
from support.sampling import (
    count_unet_calls,
    draw,
    encode,
    sample,
    some_picture,
    tiny_controlnet,
)
from support.tiny_models import LAYERS, WIDTH

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def silent(unet, clip, concepts):
    """MODEL and CLIP with concept a at strength 0: without its tokens, the base model."""
    return apply_concepts(unet, clip, (WeightedConcept(concepts["a"], 0.0, 0.0),))


# ------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("cfg", [1.0, 7.5])
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS.keys())
def test_without_a_concept_token_every_graph_is_the_stock_graph_bit_for_bit(
    graph, cfg, unet, clip, silent
):
    def run(model, clip):
        a, b = encode(clip, "photo of a lake"), encode(clip, "a red car, (forest:1.2)")
        return sample(model, graph(a, b), encode(clip, "lowres, bad anatomy"), cfg=cfg)

    assert torch.equal(run(*silent), run(unet, clip))


@pytest.mark.parametrize("batch", [1, 4])
def test_without_a_concept_token_a_batch_is_the_stock_batch_bit_for_bit(batch, unet, clip, silent):
    def run(model, clip):
        return sample(
            model, encode(clip, "photo"), encode(clip, "lowres"), batch=batch, size=(16, 24)
        )

    found = run(*silent)
    assert found.shape == (batch, 4, 16, 24)
    assert torch.equal(found, run(unet, clip))


# --------------------------------------- with concept tokens, against single predictions


@pytest.fixture
def two(loud):
    """MODEL and two different wide conditionings."""
    model, clip = loud
    return model, encode(clip, "photo of a <a1> <a2>"), encode(clip, "<a2> near a (lake:1.2)")


def test_combine_is_the_mean_of_both_predictions(two):
    model, a, b = two
    expected = (draw(model, a) + draw(model, b)) / 2
    assert relative_error(draw(model, combine(a, b)), expected) <= TOLERANCE
    assert relative_error(draw(model, a), expected) > 1e-3


def test_a_mask_puts_each_prediction_in_its_place(two):
    model, a, b = two
    found = draw(model, combine(masked(a, left_half()), masked(b, 1 - left_half())))
    assert relative_error(found[..., : W // 2], draw(model, a)[..., : W // 2]) <= TOLERANCE
    assert relative_error(found[..., W // 2 :], draw(model, b)[..., W // 2 :]) <= TOLERANCE


def test_a_time_step_range_is_one_conditioning_after_the_other(two):
    model, a, b = two
    found = sample(model, combine(during(a, 0, 0.5), during(b, 0.5, 1)), a, steps=4, cfg=1.0)
    alone = [sample(model, x, x, steps=4, cfg=1.0) for x in (a, b)]
    assert all(relative_error(found, x) > 1e-3 for x in alone)
    latent = {"samples": torch.zeros(1, 4, H, W)}
    sampler = nodes.KSamplerAdvanced()
    change = steps_before_half(model, 4)
    args = (0, 4, 1.0, "euler", "normal")
    (half,) = sampler.sample(model, "enable", *args, a, a, latent, 0, change, "enable")
    (whole,) = sampler.sample(model, "disable", *args, b, b, half, change, 10000, "disable")
    assert relative_error(found, whole["samples"]) <= TOLERANCE


def steps_before_half(model, steps):
    """How many steps of the schedule lie before 50 percent."""
    (sigmas,) = BasicScheduler().get_sigmas(model, "normal", steps, 1.0)
    half = model.get_model_object("model_sampling").percent_to_sigma(0.5)
    return int((sigmas[:-1] >= half).sum())


def layered(unet_with_weights, contexts):
    """A MODEL in which cross-attention l reads contexts[l], by a plain patch of ComfyUI's."""
    model = unet_with_weights.clone()
    running = []

    def swap(n, context, value, extra):
        text = contexts[len(running) % LAYERS].expand(len(n), -1, -1)
        running.append(extra["block"])
        return n, text, text

    model.set_model_attn2_patch(swap)
    return model


@pytest.fixture
def plain_weights(loud):
    """The MODEL with the concept's weights, without our wrappers."""
    model = loud[0].clone()
    model.wrappers = {}
    return model


def slices(conditioning):
    return conditioning[0][0].unflatten(-1, (LAYERS, WIDTH))[0].transpose(0, 1)[:, None]


def test_concat_lets_every_layer_read_its_slices_of_both(two, plain_weights, clip):
    model, a, b = two
    both = torch.cat([slices(a), slices(b)], dim=2)
    expected = draw(layered(plain_weights, both), encode(clip, ""))
    assert relative_error(draw(model, concat(a, b)), expected) <= TOLERANCE
    assert relative_error(draw(model, a), expected) > 1e-3


def test_average_lets_every_layer_read_the_mean_of_its_slices(two, plain_weights, clip):
    model, a, b = two
    mean = 0.3 * slices(a) + 0.7 * slices(b)
    expected = draw(layered(plain_weights, mean), encode(clip, ""))
    assert relative_error(draw(model, average(a, b, 0.3)), expected) <= TOLERANCE


def test_prompts_of_different_length_are_each_as_if_alone(loud):
    model, clip = loud
    long = encode(clip, "<a1>, " + "a red car, " * 20)
    short = encode(clip, "<a2> lake")
    assert long[0][0].shape[1] == 154
    expected = (draw(model, long) + draw(model, short)) / 2
    assert relative_error(draw(model, combine(long, short)), expected) <= TOLERANCE


def test_a_narrow_negative_prompt_beside_a_wide_one_is_the_same_picture(loud):
    model, knowing = loud
    positive, negative = encode(knowing, "<a1> <a2>"), encode(knowing, "lowres")
    wide = sample(model, positive, negative, cfg=3.0)
    narrow = [[cond[..., :WIDTH].clone(), {}] for cond, _ in negative]
    assert relative_error(sample(model, positive, narrow, cfg=3.0), wide) <= 1e-4


def test_positive_and_negative_run_as_one_batch(loud):
    model, clip = loud[0].clone(), loud[1]
    calls = count_unet_calls(model)
    sample(model, encode(clip, "<a1>"), encode(clip, "lowres"), steps=3)
    assert calls == [2, 2, 2]
    calls.clear()
    sample(model, encode(clip, "<a1>"), encode(clip, "lowres"), steps=2, cfg=1.0, batch=4)
    assert calls == [4, 4]


def test_positive_and_negative_with_a_controlnet_run_as_one_batch(loud):
    model, clip = loud[0].clone(), loud[1]
    calls = count_unet_calls(model)
    positive, negative = nodes.ControlNetApplyAdvanced().apply_controlnet(
        encode(clip, "<a1>"), encode(clip, ""), tiny_controlnet(), some_picture(), 1.0, 0.0, 1.0
    )
    sample(model, positive, negative, steps=2)
    assert calls == [2, 2]


def test_the_guider_and_custom_sampler_nodes_give_the_samplers_picture(loud):
    model, clip = loud
    positive, negative = encode(clip, "<a1> <a2>"), encode(clip, "lowres")
    expected = sample(model, positive, negative, steps=3, cfg=5.0, seed=7)
    (noise,) = RandomNoise().get_noise(7)
    (guider,) = CFGGuider().get_guider(model, positive, negative, 5.0)
    (sampler,) = KSamplerSelect().get_sampler("euler")
    (sigmas,) = BasicScheduler().get_sigmas(model, "normal", 3, 1.0)
    latent = {"samples": torch.zeros(1, 4, H, W)}
    out, _ = SamplerCustomAdvanced().sample(noise, guider, sampler, sigmas, latent)
    assert relative_error(out["samples"], expected) <= TOLERANCE
