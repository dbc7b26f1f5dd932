"""LoRA injection and isolation on a MODEL: a concept acts on its own tokens and nowhere else."""

import comfy.model_management
import comfy.patcher_extension
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.compose.injection import INJECTIONS
from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families.unet import SD15, comfy_unet_key
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.compose.composer import draw_regions
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import draw_prompts, encode_region_texts
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.records import Concept, LowRank, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.composer_models import composer_unet
from support.golden import relative_error
from support.sampling import describe, encode, fingerprint, predict_noise, sample
from support.tiny_models import golden_unet

TOLERANCE = 2e-5
WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
SLIVER = Box(0.51, 0.51, 0.52, 0.52)  # no whole cell on any map
ISOLATED = ("off", "on")


def layout(*regions):
    return Regions(128, 128, regions)


def compose(model, clip, concepts, regions, setting="full", isolation="off"):
    """The model with the concepts in their regions, without guidance."""
    assigned, _ = assign_concepts(regions, concepts)
    drawn = draw_regions(model, clip, regions, concepts, assigned)
    patched = add_regional_attention(model, drawn, setting, isolation)
    add_layerwise_text(patched)
    return patched


@pytest.fixture(scope="module")
def chain(concepts):
    """v changes every kind of layer; a the attentions."""
    return WeightedConcept(concepts["v"], 0.8, 0.9), WeightedConcept(concepts["a"])


def two_sides():
    return layout(
        Region("a <v1> <v2>, red car", "lowres", box=LEFT), Region("<a1> <a2>", "blurry", box=RIGHT)
    )


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


# ------------------------------------------------------------------------------------ texts


def test_each_region_is_encoded_by_its_own_concepts_text_encoder(clip, chain, unet):
    assigned, _ = assign_concepts(two_sides(), chain)
    texts = encode_region_texts(clip, two_sides(), chain, assigned)
    for number, region in enumerate(two_sides().regions):
        _, own = apply_concepts(unet, clip, (chain[number],))
        assert torch.equal(texts[number].positive[0][0], encode(own, region.prompt)[0][0])
        assert torch.equal(texts[number].negative[0][0], encode(own, region.negative)[0][0])


# ---------------------------------------------------------------------------------- manners


@pytest.mark.parametrize("isolation", ISOLATED)
@pytest.mark.parametrize("setting", INJECTIONS)
def test_the_inputs_stay_as_they_are_and_two_runs_are_equal(setting, isolation, unet, clip, chain):
    before = describe(unet), describe(clip.patcher), fingerprint(unet), fingerprint(clip.patcher)
    composed = compose(unet, clip, chain, two_sides(), setting, isolation)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    assert torch.equal(sample(composed, c, n), sample(composed, c, n))
    after = describe(unet), describe(clip.patcher), fingerprint(unet), fingerprint(clip.patcher)
    assert before == after
    assert hooks_on(unet) == 0


def hooks_on(patcher) -> int:
    modules = patcher.model.diffusion_model.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_a_cancel_in_the_middle_restores_everything(unet, clip, chain):
    composed = compose(unet, clip, chain, two_sides(), "full", "on")
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    expected, plain = sample(composed, c, n), sample(unet, c, n)
    stopping, hooked = composed.clone(), []

    def stop(n, extra):
        if extra["block"] == ("output", 5):
            hooked.append(hooks_on(unet))
            raise comfy.model_management.InterruptProcessingException
        return n

    stopping.set_model_patch(stop, "attn2_output_patch")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopping, c, n)
    assert hooked[0] > 100
    assert hooks_on(unet) == 0
    assert torch.equal(sample(composed, c, n), expected)
    assert torch.equal(sample(unet, c, n), plain)


@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_a_batch_is_its_pictures_one_by_one(cfg, unet, clip, chain):
    composed = compose(unet, clip, chain, two_sides(), "full", "on")
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    chunks = [0] if cfg == 1 else [1, 0]
    texts = [encode(clip, "blurry" if chunk else "photo")[0][0] for chunk in chunks]
    context = torch.cat([text.expand(2, -1, -1) for text in texts])
    found = predict_noise(composed, noise.repeat(len(chunks), 1, 1, 1), 500, context, chunks)
    for i, chunk in enumerate(chunks):
        for picture in range(2):
            alone = predict_noise(composed, noise[picture][None], 500, texts[i], [chunk])
            assert relative_error(found[2 * i + picture][None], alone) <= TOLERANCE


def test_weights_that_are_cast_when_they_are_used_give_the_same(clip, chain):
    """Low memory: ComfyUI keeps another type and casts every layer as it runs."""
    cast = golden_unet(dtype=torch.float16, manual_cast=torch.float32)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(compose(cast, clip, chain, two_sides(), "full", "on"), c, n)
    expected = sample(compose(golden_unet(), clip, chain, two_sides(), "full", "on"), c, n)
    assert relative_error(found, expected) <= TOLERANCE  # the golden weights are exact in fp16


def test_half_precision_is_close_to_full(unet, clip, chain):
    half = golden_unet(dtype=torch.bfloat16)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found, exact = (
        sample(compose(m, clip, chain, two_sides(), "full", "on"), c, n, steps=1)
        for m in (half, unet)
    )
    plain = sample(unet, c, n, steps=1)
    assert torch.isfinite(found).all()
    assert (found - exact).norm() < 0.2 * (exact - plain).norm()


# --------------------------------------------------------------------------------- messages


def test_a_concept_of_another_base_model_is_refused(clip, concepts):
    wide = composer_unet()
    regions = layout(Region("<a1> <a2>", box=LEFT))
    with pytest.raises(ArchitectureError, match="64 x 64 here, 32 x 32 in 'edlora_a'"):
        compose(wide, clip, (WeightedConcept(concepts["a"]),), regions)


def test_a_concept_that_no_region_draws_need_not_fit(unet, clip, concepts):
    other = Concept.edlora(
        "other",
        {"<o1>": torch.zeros(16, 32)},
        {},
        {"nowhere": LowRank(*torch.zeros(2, 4, 4))},
        "sd15",
    )
    regions = layout(Region("<a1> <a2>", box=LEFT))
    chain = (WeightedConcept(concepts["a"]), WeightedConcept(other))
    assert compose(unet, clip, chain, regions) is not unet
