"""Placement without gradients on UNets, and the balance of regions in the guidance."""

import pytest
import torch

from mix_of_show.mos_core.compose.guidance import balanced
from mix_of_show.mos_core.patch.regional.texts import word_positions
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.sample import RegionalAttention
from support.golden import relative_error
from support.sampling import encode, sample

PROMPT, NEGATIVE = "a red car near the forest", "lowres, bad anatomy"
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
QUIET = {"guidance_steps": 0, "reinitialise": False}


def patch(model, clip, *regions, **options):
    return RegionalAttention.execute(model, clip, Regions(128, 128, regions), **options)[0]


def outputs_of(model, clip, steps=1):
    """What the first cross-attention returns in every step, (2, cells, width): negative first."""
    seen = []
    watched = model.clone()

    def note(n, extra):
        if extra["block"] == ("input", 1):
            seen.append(n.clone())
        return n

    watched.set_model_patch(note, "attn2_output_patch")
    sample(watched, encode(clip, "photo"), encode(clip, "blurry"), steps=steps)
    return seen


def test_placement_that_is_off_or_of_strength_0_changes_no_bit(unet, clip):
    c, n = encode(clip, "photo"), encode(clip, "blurry")
    plain = sample(patch(unet, clip, Region(PROMPT, NEGATIVE, box=LEFT)), c, n)
    for options in ({"placement": True, "placement_strength": 0.0}, {"placement_strength": 4.0}):
        found = sample(patch(unet, clip, Region(PROMPT, NEGATIVE, box=LEFT), **options), c, n)
        assert torch.equal(found, plain)


def test_the_words_of_a_prompt_are_known(clip):
    assert word_positions(clip.tokenizer, PROMPT) == tuple(range(1, 7))
    assert word_positions(clip.tokenizer, "") == ()
    far = word_positions(clip.tokenizer, "car, " * 45)
    assert 76 not in far  # the end of the first section
    assert 77 not in far  # the beginning of the second
    assert max(far) > 77


def test_own_words_weigh_by_the_exponential_of_the_strength(unet, clip):
    """By hand, in the first layer of the first step: softmax over the text with b at its words."""
    strength = 2.5
    region = Region(PROMPT, NEGATIVE, box=LEFT)
    inputs = {}
    watched = patch(unet, clip, region, placement=True, placement_strength=strength).clone()

    def keep(n, context, value, extra):
        if extra["block"] == ("input", 1):
            inputs.setdefault("n", n.clone())
        return n, context, value

    watched.set_model_attn2_patch(keep)
    found = outputs_of(watched, clip)[0]
    attention = unet.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2
    heads = attention.heads
    text = encode(clip, PROMPT)[0][0]
    q, k, v = attention.to_q(inputs["n"][1:]), attention.to_k(text), attention.to_v(text)
    bias = torch.zeros(text.shape[1])
    bias[list(word_positions(clip.tokenizer, PROMPT))] = strength
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias[None])
    expected = attention.to_out(out.transpose(1, 2).flatten(2))
    cells = LEFT.weights(16, 16).flatten() > 0
    torch.testing.assert_close(found[1, cells], expected[0, cells], rtol=1e-4, atol=1e-5)


def test_outside_the_regions_and_in_the_negative_half_nothing_changes(unet, clip):
    region = Region(PROMPT, NEGATIVE, box=LEFT)
    plain = outputs_of(patch(unet, clip, region), clip)[0]
    placed = outputs_of(patch(unet, clip, region, placement=True), clip)[0]
    outside = LEFT.weights(16, 16).flatten() == 0
    assert torch.equal(placed[:, outside], plain[:, outside])
    torch.testing.assert_close(placed[0], plain[0], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(placed[1, ~outside], plain[1, ~outside], atol=1e-3)


def test_it_is_over_after_a_third_of_the_steps(unet, clip, monkeypatch):
    from mix_of_show.mos_core.patch.regional.keys_values import KeysValues

    masks, own = [], KeysValues.placing

    def note(self, *args):
        masks.append(self.placement)
        return own(self, *args)

    monkeypatch.setattr(KeysValues, "placing", note)
    outputs_of(patch(unet, clip, Region(PROMPT, box=LEFT), placement=True), clip, steps=6)
    by_step = [masks[i * 16] for i in range(6)]
    assert by_step == pytest.approx([2.5, 1.25, 0, 0, 0, 0])


@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_the_composer_places_too_and_a_batch_is_its_pictures(size, unet, clip, concepts):
    chain = (WeightedConcept(concepts["a"]), WeightedConcept(concepts["v"]))
    layout = Regions(
        128, 128, (Region("a <a1> <a2>", "lowres", box=LEFT), Region("<v1> <v2>", box=RIGHT))
    )

    def composed(**options):
        return ComposerAttention.execute(unet, clip, chain, layout, **QUIET, **options).args[0]

    c, n = encode(clip, "photo"), encode(clip, "blurry")
    placed = sample(composed(placement=True), c, n, steps=3, size=size, batch=2)
    assert torch.isfinite(placed).all()
    plain = sample(composed(), c, n, steps=3, size=size, batch=2)
    assert relative_error(placed, plain) > 1e-3
    alone = sample(composed(placement=True), c, n, steps=3, size=size)
    assert relative_error(placed[:1], alone) <= 1e-4


def test_published_overlaps_are_the_public_codes_isolation(unet, clip, concepts):
    chain = (WeightedConcept(concepts["a"]), WeightedConcept(concepts["b"]))
    wide = Box(0, 0, 0.7, 1), Box(0.3, 0, 1, 1)
    drawn = []
    for boxes in (wide, (LEFT, RIGHT)):
        layout = Regions(
            128,
            128,
            tuple(Region(p, box=b) for p, b in zip(("<a1> <a2>", "<b1> <b2>"), boxes, strict=True)),
        )
        ours, published = (
            ComposerAttention.execute(
                unet, clip, chain, layout, **QUIET, published_overlaps=own
            ).args[0]
            for own in (False, True)
        )
        c, n = encode(clip, "photo"), encode(clip, "")
        drawn.append(torch.equal(sample(ours, c, n, steps=1), sample(published, c, n, steps=1)))
    assert drawn == [False, True]


def test_balanced_losses_of_equal_regions_are_their_sum_and_the_worst_counts_most():
    equal = torch.full((3, 2), 7.0)
    torch.testing.assert_close(balanced(equal), equal.sum(0))
    with torch.inference_mode(False), torch.enable_grad():
        losses = torch.tensor([[30.0], [10.0], [29.0]], requires_grad=True)
        total = balanced(losses)
        (gradient,) = torch.autograd.grad(total.sum(), losses)
    assert gradient.sum().item() == pytest.approx(3.0)  # as much in all as in the plain sum
    assert gradient[0] > gradient[2] > 50 * gradient[1]
    assert 90 > total.item() > losses.sum().item()


def test_one_region_is_led_as_without_balance(unet, clip, concepts):
    chain = (WeightedConcept(concepts["a"]),)
    layout = Regions(256, 128, (Region("a <a1> <a2>", box=LEFT),))
    found = []
    for balance in (False, True):
        model, text, _ = ComposerAttention.execute(unet, clip, chain, layout, balance=balance).args
        c, n = encode(text, "photo"), encode(text, "")
        found.append(sample(model, c, n, steps=2, size=(16, 32)))
    assert relative_error(*found) <= 1e-5
