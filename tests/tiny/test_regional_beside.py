"""Regional attention beside controls, image prompts and LoRAs; its manners and messages."""

import comfy.hooks
import comfy.model_management
import comfy.samplers
import comfy.sd
import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.errors import ArchitectureError, ConceptTokenError, RegionError
from mix_of_show.mos_core.patch.regional.attention import KEY, WrappersMP, add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import encode_region_texts
from mix_of_show.mos_core.regions.region import Region
from support.golden import relative_error
from support.oracle import small_lora
from support.sampling import (
    describe,
    encode,
    fingerprint,
    sample,
    some_picture,
    tiny_controlnet,
    tiny_t2i_adapter,
)
from support.two_regions import (  # noqa: F401 (fixtures)
    LEFT,
    NEGATIVE,
    PROMPT,
    RIGHT,
    TOLERANCE,
    WHOLE,
    layout,
    loud,
    pair,
    patch,
    two_sides,
)

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
