"""Wide conditionings beside controls and other packs' attention; a MODEL without the patch."""

import pytest
import torch
from comfy_extras.nodes_cond import CLIPTextEncodeControlnet

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.text.layerwise_model import mark_conditioning
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.text.layerwise import layer_mean
from support.conditionings import (
    GRAPHS,
    loud,  # noqa: F401 (fixtures)
    with_control,
)
from support.golden import relative_error
from support.sampling import (
    draw,
    encode,
    sample,
    tiny_controlnet,
)
from support.tiny_models import LAYERS, WIDTH

# ------------------------------------------------------------------------------- control


def test_a_controlnet_reads_the_mean_of_the_layers(loud):
    """Oracle: the same run with that text given to the ControlNet by ComfyUI's own input."""
    model, clip = loud
    positive = encode(clip, "photo of a <a1> <a2>")
    seen = []
    control = tiny_controlnet()
    control.control_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["context"]), with_kwargs=True
    )
    found = draw(model, with_control(positive, control))
    assert torch.equal(seen[0], layer_mean(positive[0][0], LAYERS))
    given = [[c, {**d, "cross_attn_controlnet": seen[0]}] for c, d in positive]
    assert torch.equal(draw(model, with_control(given, tiny_controlnet())), found)
    assert relative_error(draw(model, positive), found) > 1e-3


def test_a_text_of_its_own_for_the_controlnet_is_kept(loud, clip):
    model, knowing = loud
    seen = []
    control = tiny_controlnet()
    control.control_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["context"]), with_kwargs=True
    )
    node = CLIPTextEncodeControlnet
    run = getattr(node, "execute", None) or node().encode
    for encoder in (clip, knowing):
        out = run(encoder, encode(knowing, "<a1>"), "a red car")
        draw(model, with_control(out[0] if isinstance(out, tuple) else out.args[0], control))
    assert torch.equal(seen[0], encode(clip, "a red car")[0][0])
    assert seen[1].shape == seen[0].shape


# ---------------------------------------------------------------- other packs' attention


def add_image_prompt(model):
    """As IPAdapter does: a replacement of every cross-attention that adds a second attention."""
    from comfy.ldm.modules.attention import optimized_attention

    seen = []

    def replace(q, k, v, extra_options):
        seen.append((k.shape[1:], len(q)))
        heads = extra_options["n_heads"]
        text = optimized_attention(q, k, v, heads)
        return text + 0.5 * optimized_attention(q, k[:, :4], v[:, :4], heads)

    model = model.clone()
    blocks = [("input", i) for i in (1, 2, 4, 5, 7, 8)] + [("middle", 0)]
    for name, number in blocks + [("output", i) for i in range(3, 12)]:
        model.set_model_attn2_replace(replace, name, number)
    return model, seen


def add_text_patch(model):
    """As other packs do: a patch that changes the text that a cross-attention reads."""
    seen = []

    def patch(n, context, value, extra_options):
        seen.append(tuple(context.shape[1:]))
        return n, context * 1.1, value

    model = model.clone()
    model.set_model_attn2_patch(patch)
    return model, seen


@pytest.mark.parametrize("add", [add_image_prompt, add_text_patch])
def test_an_attention_patch_before_or_after_is_called_on_narrow_text_with_the_same_result(
    add, unet, clip, concepts
):
    entry = (WeightedConcept(concepts["a"], 1.0, 1.0),)
    patched, seen_before = add(unet)
    before, knowing = apply_concepts(patched, clip, entry)
    after, seen_after = add(apply_concepts(unet, clip, entry)[0])
    positive, negative = encode(knowing, "<a1> <a2>"), encode(knowing, "lowres")
    first, second = (sample(model, positive, negative, steps=1) for model in (before, after))
    assert torch.equal(first, second)
    assert len(seen_before) == len(seen_after) == LAYERS
    shapes = {shape if add is add_text_patch else shape[0] for shape in seen_before + seen_after}
    assert shapes == {(77, WIDTH)}
    bare = sample(apply_concepts(unet, clip, entry)[0], positive, negative, steps=1)
    assert relative_error(first, bare) > 1e-3


# ------------------------------------------------------------- a MODEL without the patch


@pytest.mark.parametrize(
    "graph", ["plain", "combine", "concat", "average", "mask", "zero out", "controlnet"]
)
def test_a_model_without_the_patch_ends_in_our_message(graph, unet, loud):
    _, clip = loud
    conditioning = GRAPHS[graph](encode(clip, "<a1>"), encode(clip, "<a2>"))
    message = "holds 16 layer-wise texts.*MODEL output of the same Apply Concepts"
    with pytest.raises(ArchitectureError, match=message):
        sample(unet, conditioning, encode(clip, ""))


def test_a_model_with_another_number_of_layers_ends_in_our_message(loud):
    model, clip = loud
    ((cond, extras),) = encode(clip, "<a1>")
    other = [[cond, {**extras, **mark_conditioning(70)}]]
    with pytest.raises(ArchitectureError, match="holds 70 layer-wise texts, the MODEL has 16"):
        sample(model, other, other)
