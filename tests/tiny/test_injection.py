"""LoRA injection and isolation on a MODEL: a concept acts on its own tokens and nowhere else."""

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.injection import INJECTIONS
from mix_of_show.mos_core.families.unet import SD15, comfy_unet_key
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import draw_prompts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region
from support.golden import relative_error
from support.injecting import (
    ISOLATED,
    LEFT,
    RIGHT,
    TOLERANCE,
    WHOLE,
    chain,  # noqa: F401 (fixtures)
    compose,
    layout,
    two_sides,
)
from support.sampling import encode, sample

SLIVER = Box(0.51, 0.51, 0.52, 0.52)  # no whole cell on any map


# -------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize("size", [(16, 16), (17, 23)])
@pytest.mark.parametrize("number", [0, 1])
def test_one_concept_over_the_whole_canvas_is_that_lora_applied(
    number, size, isolation, unet, clip, chain
):
    one = chain[number : number + 1]
    prompt = f"photo of {one[0].concept.trigger_words}"
    regions = layout(Region(prompt, "lowres", box=WHOLE))
    composed = compose(unet, clip, one, regions, "full", isolation)
    found = sample(composed, encode(clip, "photo"), encode(clip, "blurry"), size=size)
    model, text = apply_concepts(unet, clip, one)
    plain = sample(model, encode(text, prompt), encode(text, "lowres"), size=size)
    assert relative_error(found, plain) <= TOLERANCE


def test_two_regions_of_one_concept_that_cover_all_are_that_lora_applied(unet, clip, chain):
    prompt = "photo of <v1> <v2>"
    regions = layout(*(Region(prompt, "lowres", box=box) for box in (LEFT, RIGHT)))
    composed = compose(unet, clip, chain[:1], regions)
    found = sample(composed, encode(clip, "photo"), encode(clip, "blurry"))
    model, text = apply_concepts(unet, clip, chain[:1])
    plain = sample(model, encode(text, prompt), encode(text, "lowres"))
    assert relative_error(found, plain) <= TOLERANCE


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize("setting", INJECTIONS)
def test_an_empty_region_is_the_base_model_bit_for_bit(setting, isolation, unet, clip, chain):
    regions = layout(Region("<v1> <v2>", box=SLIVER), Region("<a1> <a2>", weight=0.0, box=LEFT))
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(compose(unet, clip, chain, regions, setting, isolation), c, n)
    assert torch.equal(found, sample(unet, c, n))


@pytest.mark.parametrize("setting", INJECTIONS)
def test_concepts_of_strength_0_are_regions_without_concepts(setting, unet, clip, chain):
    silent = tuple(WeightedConcept(entry.concept, 0.0, 0.0) for entry in chain)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(compose(unet, clip, silent, two_sides(), setting), c, n)
    model, text = apply_concepts(unet, clip, silent)
    prompts = add_regional_attention(unet, draw_prompts(text, two_sides()))
    assert relative_error(found, sample(prompts, c, n)) <= TOLERANCE
    assert not torch.equal(found, sample(unet, c, n))


# --------------------------------------------------------------------------------- leak-free


def watch(model, modules):
    """A list that gets (name, module, x, final output) of every call of the modules."""
    seen = []

    def wrapper(executor, *args, **kwargs):
        handles = []
        for name in modules:
            key = comfy_unet_key(name, SD15).removeprefix("diffusion_model.")
            module = comfy.utils.get_attr(executor.class_obj, key.removesuffix(".weight"))

            def hook(module, inputs, output, name=name):
                seen.append((name, module, inputs[0].clone(), output.clone()))

            handles.append(module.register_forward_hook(hook))
        try:
            return executor(*args, **kwargs)
        finally:
            for handle in handles:
                handle.remove()

    # Wrappers run in the order they were added: this one's hooks come after ours.
    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    model.add_wrapper_with_key(kind, "watching", wrapper)
    return seen


def cells_of(region, tokens, size):
    """Which tokens of a feature map with so many cells belong to the region; (tokens,) bool."""
    rows, columns = size
    while rows * columns > tokens:
        rows, columns = -(-rows // 2), -(-columns // 2)
    assert rows * columns == tokens
    return region.weights(rows, columns).flatten() > 0


@pytest.mark.parametrize("size", [(16, 24), (17, 23)])
def test_the_deltas_are_exactly_zero_outside_their_regions_in_every_linear_layer(
    size, unet, clip, chain
):
    boxes = Box(0.1, 0.2, 0.6, 1), Box(0.5, 0, 0.9, 0.7)
    regions = layout(
        *(Region(f"<{t}1> <{t}2>", "lowres", box=b) for t, b in zip("va", boxes, strict=True))
    )
    modules = sorted(name for name in chain[0].concept.unet if ".attn2." not in name)
    composed = compose(unet, clip, chain, regions, "full", "on")
    seen = watch(composed, modules)
    sample(composed, encode(clip, "photo"), encode(clip, "blurry"), steps=1, size=size)
    assert [name for name, *_ in seen] != []
    assert {name for name, *_ in seen} == set(modules)
    assert len(modules) == 16 * 8  # 4 of self-attention, 2 of feed-forward, proj_in, proj_out
    changed = set()
    for name, module, x, output in seen:
        plain = module.forward(x)
        if x.ndim == 4:
            plain, output = (t.flatten(2).transpose(1, 2) for t in (plain, output))
        inside = [cells_of(region, output.shape[1], size) for region in regions.regions]
        v_alone, outside = inside[0] & ~inside[1], ~inside[0] & ~inside[1]
        assert torch.equal(output[:, outside], plain[:, outside]), name
        delta = chain[0].concept.unet[name].matrix() * chain[0].strength_model
        tokens = x.flatten(2).transpose(1, 2) if x.ndim == 4 else x
        expected = plain[:, v_alone] + tokens[:, v_alone] @ delta.T  # concept a adds nothing here
        torch.testing.assert_close(output[:, v_alone], expected, rtol=1e-4, atol=1e-4)
        if v_alone.any():
            changed.add(name)
    assert len(changed) > 0.8 * len(modules)


@pytest.mark.parametrize("setting", INJECTIONS)
def test_a_cross_attention_is_exactly_the_base_models_outside_all_regions(
    setting, unet, clip, chain
):
    size = (16, 24)
    regions = layout(Region("<v1> <v2>", "lowres", box=Box(0.1, 0.2, 0.6, 1)))
    composed = compose(unet, clip, chain[:1], regions, setting)
    inputs, compared = {}, []
    composed.set_model_attn2_patch(
        lambda n, c, v, extra: (inputs.update(n=n.clone(), c=c) or n, c, v)
    )

    def compare(n, extra):
        layer = SD15.layers[extra["transformer_index"]]
        name = f"{layer.comfy}.transformer_blocks.0.attn2"
        attention = comfy.utils.get_attr(unet.model.diffusion_model, name)
        plain = attention(inputs["n"], context=inputs["c"])
        inside = cells_of(regions.regions[0], n.shape[1], size)
        assert torch.equal(n[:, ~inside], plain[:, ~inside])
        assert not inside.any() or (n[:, inside] != plain[:, inside]).any(-1).all()
        compared.append(layer.index)
        return n

    composed.set_model_patch(compare, "attn2_output_patch")
    sample(composed, encode(clip, "photo"), encode(clip, "blurry"), steps=1, size=size)
    assert compared == list(range(16))


def test_isolated_regions_are_not_reached_by_each_other_in_a_self_attention(unet, clip, chain):
    """What region b shows has no influence on region a within one layer."""
    composed = compose(unet, clip, chain, two_sides(), "reference", "on")
    reached = []

    def disturb(n, context, value, extra):
        inside = cells_of(two_sides().regions[1], n.shape[1], (16, 16))
        mine = cells_of(two_sides().regions[0], n.shape[1], (16, 16))
        layer = SD15.layers[extra["transformer_index"]]
        key = (*layer.block, layer.depth)
        moved = n.clone()
        moved[:, inside] += 1
        attention = comfy.utils.get_attr(
            unet.model.diffusion_model, f"{layer.comfy}.transformer_blocks.0.attn1"
        )
        replace = extra_replace[key]
        outs = [
            replace(attention.to_q(t), attention.to_k(t), attention.to_v(t), dict(extra))
            for t in (n, moved)
        ]
        reached.append(torch.equal(outs[0][:, mine], outs[1][:, mine]))
        return n, context, value

    extra_replace = {}

    def catch(executor, x, t, context, y, control, options, **kwargs):
        extra_replace.update(options["patches_replace"]["attn1"])
        return executor(x, t, context, y, control, options, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    composed.add_wrapper_with_key(kind, "catching", catch)
    composed.set_model_attn1_patch(disturb)
    sample(composed, encode(clip, "photo"), encode(clip, "blurry"), steps=1)
    assert reached == [True] * 16


def test_another_packs_self_attention_wins_over_isolation(unet, clip, chain):
    calls = []

    def replace(q, k, v, extra):
        calls.append(q.shape[1])
        return v

    composed = compose(unet, clip, chain, two_sides(), "full", "on")
    composed.set_model_attn1_replace(replace, "middle", 0)
    sample(composed, encode(clip, "photo"), encode(clip, "blurry"), steps=1)
    assert calls == [4]
