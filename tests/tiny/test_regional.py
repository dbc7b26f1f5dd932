"""Regional attention on a MODEL: identities, manners, and what else runs beside it."""

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy.sd
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
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.errors import ArchitectureError, ConceptTokenError, RegionError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.regional.attention import KEY, WrappersMP, add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import encode_region_texts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.sample import RegionalAttention, RegionalSampler
from support.golden import relative_error
from support.oracle import small_lora
from support.sampling import (
    describe,
    encode,
    fingerprint,
    predict_noise,
    sample,
    some_picture,
    tiny_controlnet,
    tiny_t2i_adapter,
)
from support.tiny_models import LAYERS, golden_unet

TOLERANCE = 2e-5
WHOLE = Box(0, 0, 1, 1)
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
SLIVER = Box(0.51, 0.51, 0.52, 0.52)  # no whole cell on any map
PROMPT, NEGATIVE = "a red car near the forest", "lowres, bad anatomy"


def layout(*regions):
    return Regions(128, 128, regions)


def two_sides(**options):
    return layout(
        Region(PROMPT, NEGATIVE, box=LEFT, **options), Region("photo of a lake", box=RIGHT)
    )


def patch(model, clip, regions):
    return RegionalAttention.execute(model, clip, regions)[0]


@pytest.fixture(scope="module")
def loud(unet, clip, concepts):
    """MODEL and CLIP with a concept: prompts are layer-wise."""
    return apply_concepts(unet, clip, (WeightedConcept(concepts["a"]),))


@pytest.fixture(params=["narrow", "wide"])
def pair(request, unet, clip, loud):
    return (unet, clip) if request.param == "narrow" else loud


def outputs_of(model, clip, attention=2, prompt="photo", **options):
    """What each attention of the first step returns, by layer."""
    outputs = []
    seen = model.clone()
    seen.set_model_patch(
        lambda n, extra: outputs.append(n.clone()) or n, f"attn{attention}_output_patch"
    )
    sample(seen, encode(clip, prompt), encode(clip, "blurry"), steps=1, **options)
    return outputs[:LAYERS]


# ------------------------------------------------------------------------------- identities


def test_without_regions_the_model_is_the_base_model_bit_for_bit(pair):
    model, clip = pair
    found = patch(model, clip, layout())
    assert found is not model
    c, n = encode(clip, PROMPT), encode(clip, NEGATIVE)
    assert torch.equal(sample(found, c, n), sample(model, c, n))


@pytest.mark.parametrize(
    "region",
    [Region(PROMPT, NEGATIVE, weight=0.0, box=WHOLE), Region(PROMPT, NEGATIVE, box=SLIVER)],
    ids=["weight 0", "no cell"],
)
def test_a_region_without_effect_leaves_the_base_model_bit_for_bit(region, pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(patch(model, clip, layout(region)), c, n)
    assert torch.equal(found, sample(model, c, n))


@pytest.mark.parametrize("size", [(16, 16), (17, 23), (24, 16)])
@pytest.mark.parametrize("cfg", [1.0, 7.5])
def test_one_region_over_the_whole_canvas_is_the_plain_prompt(size, cfg, pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=WHOLE)))
    found = sample(regional, encode(clip, "photo"), encode(clip, "blurry"), cfg=cfg, size=size)
    plain = sample(model, encode(clip, PROMPT), encode(clip, NEGATIVE), cfg=cfg, size=size)
    assert relative_error(found, plain) <= TOLERANCE


def test_a_mask_over_the_whole_canvas_is_the_plain_prompt(loud):
    model, clip = loud
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, mask=torch.ones(7, 5))))
    found = sample(regional, encode(clip, "photo"), encode(clip, "blurry"))
    plain = sample(model, encode(clip, PROMPT), encode(clip, NEGATIVE))
    assert relative_error(found, plain) <= TOLERANCE


def test_a_region_without_texts_keeps_the_global_ones(pair):
    model, clip = pair
    c, n = encode(clip, PROMPT), encode(clip, NEGATIVE)
    regional = patch(model, clip, layout(Region("", "", box=LEFT)))
    assert relative_error(sample(regional, c, n), sample(model, c, n)) <= TOLERANCE


def test_a_region_without_a_negative_prompt_keeps_the_global_one(pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, NEGATIVE)
    found = sample(patch(model, clip, layout(Region(PROMPT, "", box=LEFT))), c, n)
    told = sample(patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=LEFT))), c, n)
    assert relative_error(found, told) <= TOLERANCE


def test_overlapping_regions_with_one_prompt_are_one_region(pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    parts = layout(
        Region(PROMPT, NEGATIVE, box=Box(0, 0, 0.75, 1)),
        Region(PROMPT, NEGATIVE, box=Box(0.25, 0, 1, 1)),
    )
    one = layout(Region(PROMPT, NEGATIVE, box=WHOLE))
    found = sample(patch(model, clip, parts), c, n)
    assert relative_error(found, sample(patch(model, clip, one), c, n)) <= TOLERANCE


def test_outside_all_boxes_a_cross_attention_is_bit_identical(pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=LEFT)))
    found = outputs_of(regional, clip)[0].unflatten(1, (16, 16))
    plain = outputs_of(model, clip)[0].unflatten(1, (16, 16))
    assert torch.equal(found[:, :, 8:], plain[:, :, 8:])
    assert (found[:, :, :8] != plain[:, :, :8]).any(-1).all()


@pytest.mark.parametrize("weight", [0.3, 1.0])
def test_a_weight_mixes_both_attentions_of_a_layer(weight, pair):
    model, clip = pair
    regional = patch(model, clip, layout(Region(PROMPT, "blurry", weight=weight, box=WHOLE)))
    found = outputs_of(regional, clip)[0]
    own, base = outputs_of(model, clip, prompt=PROMPT)[0], outputs_of(model, clip)[0]
    assert relative_error(found, weight * own + (1 - weight) * base) <= TOLERANCE


def test_texts_of_different_length_can_stand_side_by_side(pair):
    model, clip = pair
    long = "a red car, " * 30  # two sections of 77
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    regional = patch(model, clip, layout(Region(long, NEGATIVE, box=WHOLE)))
    plain = sample(model, encode(clip, long), encode(clip, NEGATIVE))
    assert relative_error(sample(regional, c, n), plain) <= TOLERANCE


# --------------------------------------------------------------------- how it is batched


@pytest.mark.parametrize("chunks", [(1, 0), (0, 1), (0, 0), (1,), (0,)])
def test_halves_are_told_apart_however_they_are_batched(chunks, unet, clip):
    regional = patch(unet, clip, two_sides())
    texts = [encode(clip, "blurry" if chunk else "photo")[0][0] for chunk in chunks]
    noise = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    latent = noise.repeat(len(chunks), 1, 1, 1)
    context = torch.cat([text.expand(2, -1, -1) for text in texts])
    found = predict_noise(regional, latent, 500, context, chunks)
    for i, chunk in enumerate(chunks):
        for picture in range(2):
            row = 2 * i + picture
            alone = predict_noise(regional, noise[picture][None], 500, texts[i], [chunk])
            assert relative_error(found[row][None], alone) <= TOLERANCE


def test_a_batch_is_its_pictures_one_by_one(loud):
    model, clip = loud
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    found = sample(regional, c, n, batch=3, size=(16, 24))
    assert found.shape == (3, 4, 16, 24)
    assert relative_error(found[:1], sample(regional, c, n, size=(16, 24))) <= TOLERANCE


@pytest.mark.parametrize("sampler", comfy.samplers.KSampler.SAMPLERS)
def test_every_stock_sampler_runs(sampler, unet, clip):
    regional = patch(unet, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    found, plain = (
        nodes.common_ksampler(m, 0, 2, 7.5, sampler, "karras", c, n, latent)[0]["samples"]
        for m in (regional, unet)
    )
    assert torch.isfinite(found).all()
    assert not torch.equal(found, plain)


def test_custom_sampling_is_the_ksampler(loud):
    model, clip = loud
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    guider = CFGGuider.execute(regional, c, n, 7.5)[0]
    sigmas = BasicScheduler.execute(regional, "normal", 2, 1.0)[0]
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    noise, euler = RandomNoise.execute(0)[0], KSamplerSelect.execute("euler")[0]
    found = SamplerCustomAdvanced.execute(noise, guider, euler, sigmas, latent)[0]
    assert torch.equal(found["samples"], sample(regional, c, n))


def test_the_sampler_node_is_the_patch_and_a_ksampler(loud):
    model, clip = loud
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    found = RegionalSampler.execute(
        model, clip, two_sides(), c, n, latent, 0, 2, 7.5, "euler", "normal", 1.0
    )[0]
    assert torch.equal(found["samples"], sample(patch(model, clip, two_sides()), c, n))


def test_half_precision_is_close_to_full(clip):
    half = golden_unet(dtype=torch.bfloat16)
    full = golden_unet()
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    regions = layout(Region(PROMPT, NEGATIVE, weight=0.7, box=LEFT), Region("lake", box=RIGHT))
    found, exact, plain = (
        sample(m, c, n, steps=1)
        for m in (patch(half, clip, regions), patch(full, clip, regions), full)
    )
    assert (found - exact).norm() < 0.2 * (exact - plain).norm()


# ------------------------------------------------------------------------ others beside it


def image_prompt(q, k, v, extra):
    """An IP-Adapter-like replacement: attention, and something of its own that counts cells."""
    import comfy.ldm.modules.attention as attention

    out = attention.optimized_attention(q, k, v, extra["n_heads"])
    assert q.shape[1] == extra["activations_shape"][-2] * extra["activations_shape"][-1]
    return out + 0.3 * q.flip(1)


def with_image_prompt(model):
    patched = model.clone()
    for block in [("input", 1), ("middle", 0), ("output", 5)]:
        patched.set_model_attn2_replace(image_prompt, *block)
    return patched


def test_an_image_prompt_acts_inside_the_regions_too_in_either_order(pair):
    model, clip = pair
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    before = sample(patch(with_image_prompt(model), clip, two_sides()), c, n)
    after = sample(with_image_prompt(patch(model, clip, two_sides())), c, n)
    assert torch.equal(before, after)
    whole = layout(Region(PROMPT, NEGATIVE, box=WHOLE))
    found = sample(with_image_prompt(patch(model, clip, whole)), c, n)
    plain = sample(with_image_prompt(model), encode(clip, PROMPT), encode(clip, NEGATIVE))
    assert relative_error(found, plain) <= TOLERANCE


@pytest.mark.parametrize("control", [tiny_controlnet, tiny_t2i_adapter])
def test_a_control_acts_beside_the_regions(control, pair):
    model, clip = pair
    whole = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=WHOLE)))
    apply, net = nodes.ControlNetApplyAdvanced().apply_controlnet, control()
    base = [encode(clip, "photo"), encode(clip, "blurry")]
    own = [encode(clip, PROMPT), encode(clip, NEGATIVE)]
    # (A ControlNet reads the global prompt.)
    c, n = apply(*base, net, some_picture(), 1.0, 0.0, 1.0)
    for mine, theirs in zip(own, base, strict=True):
        mine[0][1]["cross_attn_controlnet"] = encode_narrow(theirs)
    found = sample(whole, c, n)
    c, n = apply(*own, net, some_picture(), 1.0, 0.0, 1.0)
    assert relative_error(found, sample(model, c, n)) <= TOLERANCE


def encode_narrow(conditioning):
    text = conditioning[0][0]
    return text.unflatten(-1, (-1, 32)).mean(-2)


def test_a_lora_loaded_after_the_patch_counts_in_the_regions(pair):
    model, clip = pair
    lora = small_lora(part="unet")
    whole = layout(Region(PROMPT, NEGATIVE, box=WHOLE))
    regional = patch(model, clip, whole)
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    sample(regional, c, n)  # nothing of this run may last
    after, _ = comfy.sd.load_lora_for_models(regional, None, lora, 1.0, 0)
    before, _ = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)
    plain = sample(before, encode(clip, PROMPT), encode(clip, NEGATIVE))
    assert relative_error(sample(after, c, n), plain) <= TOLERANCE


def test_comfyuis_lora_hooks_count_in_the_regions_even_where_they_change_within_a_step(pair):
    """Both halves of the picture have hooks of their own: each needs its own keys and values."""
    model, clip = pair

    def hooked(prompt):
        combined = []
        for seed, side in enumerate((LEFT, RIGHT)):
            hooks = comfy.hooks.create_hook_lora(small_lora(seed, "unet"), 1.0, 0.0)
            both = [encode(clip, prompt)]
            (c,) = comfy.hooks.set_conds_props(
                both, 1.0, "default", side.weights(16, 16)[None], hooks
            )
            combined += c
        return combined

    whole = patch(model, clip, layout(Region(PROMPT, NEGATIVE, box=WHOLE)))
    found = sample(whole, hooked("photo"), encode(clip, "blurry"))
    plain = sample(model, hooked(PROMPT), encode(clip, NEGATIVE))
    assert relative_error(found, plain) <= TOLERANCE
    assert relative_error(sample(model, encode(clip, PROMPT), encode(clip, NEGATIVE)), plain) > 0.01


def test_a_masked_latent_keeps_what_is_masked(loud):
    model, clip = loud
    mask = torch.zeros(1, 1, 16, 16)
    mask[..., 8:] = 1
    latent = {"samples": torch.randn(1, 4, 16, 16), "noise_mask": mask}
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    (found,) = nodes.common_ksampler(regional, 0, 2, 7.5, "euler", "normal", c, n, latent)
    kept = found["samples"][..., :8]
    assert relative_error(kept, latent["samples"][..., :8]) <= 1e-5


# ---------------------------------------------------------------------------------- manners


def test_region_texts_are_projected_once_per_run(unet, clip):
    regional = patch(unet, clip, two_sides())
    calls = []
    module = unet.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k
    handle = module.register_forward_hook(lambda m, args, out: calls.append(args[0].shape[0]))
    steps = 3
    try:
        for _ in range(2):
            calls.clear()
            sample(regional, encode(clip, "photo"), encode(clip, "blurry"), steps=steps)
            # Each step's own batch of two, and three texts of regions in the first step.
            assert sorted(calls) == [1] * 3 + [2] * steps
    finally:
        handle.remove()


def test_the_inputs_stay_as_they_are(loud):
    model, clip = loud
    before = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    regional = patch(model, clip, two_sides())
    sample(regional, encode(clip, "photo"), encode(clip, "blurry"))
    after = describe(model), describe(clip.patcher), fingerprint(model), fingerprint(clip.patcher)
    assert before == after


def test_a_cancel_leaves_nothing_behind(loud):
    model, clip = loud
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    expected = sample(regional, c, n)
    stopping = regional.clone()

    def stop(n, extra):
        if extra["block"] == ("middle", 0):
            raise comfy.model_management.InterruptProcessingException
        return n

    stopping.set_model_patch(stop, "attn2_output_patch")
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopping, c, n)
    wrapper = regional.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY)[0]
    assert wrapper.__self__.runs == []
    assert torch.equal(sample(regional, c, n), expected)


def test_two_runs_are_equal_and_clones_keep_the_regions(pair):
    model, clip = pair
    regional = patch(model, clip, two_sides())
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    first = sample(regional, c, n)
    assert torch.equal(sample(regional.clone().clone(), c, n), first)


# --------------------------------------------------------------------------------- messages


def test_a_second_patch_is_refused(unet, clip):
    with pytest.raises(RegionError, match=r"has regions already.*'regions' input"):
        patch(patch(unet, clip, two_sides()), clip, two_sides())


def test_a_text_of_another_width_is_refused_by_the_regions_name(unet):
    text = RegionText([[torch.zeros(1, 77, 48), {}]], None)
    with pytest.raises(ArchitectureError, match=r"'a red car.*48 wide.*reads 32"):
        add_regional_attention(unet, [Drawn(Region(PROMPT, box=LEFT), text)])


def test_an_unknown_concept_token_in_a_region_is_refused_with_the_nearest(loud):
    with pytest.raises(ConceptTokenError, match=r"<a3>.*nearest: '<a"):
        encode_region_texts(loud[1], layout(Region("a <a3>", box=LEFT)))


def test_equal_texts_are_encoded_once(clip):
    calls = []

    class Counting:
        def __getattr__(self, name):
            return getattr(clip, name)

        def encode_from_tokens_scheduled(self, *args, **kwargs):
            calls.append(1)
            return clip.encode_from_tokens_scheduled(*args, **kwargs)

    regions = [Region(PROMPT, NEGATIVE, box=LEFT), Region(PROMPT, NEGATIVE, box=RIGHT)]
    texts = encode_region_texts(Counting(), layout(*regions))
    assert len(calls) == 2
    assert texts[0].positive is texts[1].positive
