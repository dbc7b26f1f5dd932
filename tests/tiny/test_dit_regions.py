"""Regions on diffusion transformers, against the plain model and against Load LoRA."""

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import BOTH, IMAGE, SAMPLE, TEXT
from mix_of_show.mos_core.patch.regional import joint_attention
from support.dit_models import TINY, dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import (
    LEFT,
    RIGHT,
    SLIVER,
    WHOLE,
    error,
    linear_sites,
    merged,
    random_lora,
    region,
    text_of,
    with_regions,
)
from support.dit_watch import watch_linears
from support.sampling import describe, fingerprint

FAMILIES = tuple(TINY)
SIZES = ((16, 16), (18, 22))  # the second needs padding where a model pads
EXACT = 2e-5
MERGED = 1e-4  # sums in another order, over all layers and steps
BF16 = 0.2  # what a LoRA that is merged in bf16 may differ by


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def model(name):
    return tiny_dit(name)


def prompts(name, positive=1, negative=2):
    return dit_conditioning(name, positive), dit_conditioning(name, negative)


# ------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize("size", SIZES)
def test_a_text_that_nobody_sees_is_the_plain_picture_bit_for_bit(name, model, size):
    own = text_of(name, 3, 4)
    drawn = region(SLIVER, own, random_lora(model)), region(WHOLE, own, weight=0.0)
    plain = draw_dit(model, name, *prompts(name), size)
    assert torch.equal(draw_dit(with_regions(model, drawn), name, *prompts(name), size), plain)


def test_a_text_without_cells_that_stands_in_the_sequence_changes_no_bit(name, model, monkeypatch):
    from mix_of_show.mos_core.patch.regional import joint

    join = joint.join_texts
    monkeypatch.setattr(joint, "join_texts", lambda *args: join(*args[:-1], [True] * len(args[-1])))
    calls = []
    monkeypatch.setattr(
        joint_attention,
        "attend_groups",
        lambda *args, _as=joint_attention.attend_groups: calls.append(1) or _as(*args),
    )
    drawn = region(SLIVER, text_of(name, 3, 4, 40)), region(LEFT, text_of(name, None))
    plain = draw_dit(model, name, *prompts(name))
    found = draw_dit(with_regions(model, drawn, isolation="off"), name, *prompts(name))
    assert calls
    assert torch.equal(found, plain)


@pytest.mark.parametrize("isolation", ["on", "off"])
@pytest.mark.parametrize("size", SIZES)
def test_a_region_everywhere_is_the_plain_picture_with_its_prompt(name, model, size, isolation):
    drawn = (region(WHOLE, text_of(name, 3, 4)),)
    found = draw_dit(with_regions(model, drawn, isolation), name, *prompts(name), size)
    assert torch.equal(found, draw_dit(model, name, *prompts(name, 3, 4), size))


@pytest.mark.parametrize("tokens", [3, 45])
def test_a_text_of_another_length_keeps_its_own_positions(name, model, tokens):
    drawn = (region(WHOLE, text_of(name, 3, 4, tokens)),)
    found = draw_dit(with_regions(model, drawn), name, *prompts(name))
    own = (dit_conditioning(name, seed, tokens) for seed in (3, 4))
    assert error(found, draw_dit(model, name, *own)) <= EXACT


@pytest.mark.parametrize("picture_layers", ["by area", "all"])
@pytest.mark.parametrize("size", SIZES)
def test_one_region_over_everything_is_load_lora(name, model, size, picture_layers):
    lora = random_lora(model)
    drawn = (region(WHOLE, text_of(name, 3, 4), lora),)
    patched = with_regions(model, drawn, picture_layers=picture_layers)
    found = draw_dit(patched, name, *prompts(name), size)
    expected = draw_dit(merged(model, lora), name, *prompts(name, 3, 4), size)
    assert error(found, expected) <= MERGED
    assert error(found, draw_dit(model, name, *prompts(name, 3, 4), size)) > 0.1


def test_a_region_without_a_negative_prompt_reads_the_global_one_through_its_lora(name, model):
    lora = random_lora(model)
    drawn = (region(WHOLE, text_of(name, 3), lora),)
    found = draw_dit(with_regions(model, drawn), name, *prompts(name))
    expected = draw_dit(merged(model, lora), name, *prompts(name, 3, 2))
    assert error(found, expected) <= MERGED


def test_halves_of_different_length_run_apart_and_read_their_own_texts(name, model):
    positive, negative = dit_conditioning(name, 1, 20), dit_conditioning(name, 2, 7)
    drawn = (region(WHOLE, text_of(name, 3, 4)),)
    found = draw_dit(with_regions(model, drawn), name, positive, negative)
    assert error(found, draw_dit(model, name, *prompts(name, 3, 4))) <= EXACT


def test_layers_of_the_picture_as_a_whole_act_by_choice(name, model):
    lora = random_lora(model, streams=(SAMPLE,))
    halves = region(LEFT, text_of(name, 1, 2), lora), region(RIGHT, text_of(name, 1, 2))

    def drawn(choice):
        return draw_dit(with_regions(model, halves, picture_layers=choice), name, *prompts(name))

    nothing = draw_dit(
        with_regions(model, (halves[1], region(LEFT, text_of(name, 1, 2)))), name, *prompts(name)
    )
    if not lora.model:
        assert torch.equal(drawn("all"), nothing)
        return
    everything = draw_dit(
        with_regions(merged(model, lora), (halves[1], region(LEFT, text_of(name, 1, 2)))),
        name,
        *prompts(name),
    )
    half = draw_dit(
        with_regions(
            merged(model, lora, strength=0.5), (halves[1], region(LEFT, text_of(name, 1, 2)))
        ),
        name,
        *prompts(name),
    )
    assert error(drawn("skip"), nothing) <= EXACT
    assert error(drawn("by area"), half) <= MERGED
    assert error(drawn("all"), everything) <= MERGED


# ------------------------------------------------------------------------------------- leak-free


@pytest.mark.parametrize("size", SIZES)
def test_deltas_are_exactly_zero_outside_and_exact_inside(name, model, size):
    streams = (IMAGE, TEXT, BOTH)
    loras = random_lora(model, 1, streams=streams), random_lora(model, 2, streams=streams)
    drawn = (
        region(LEFT, text_of(name, 3, 4, 11), loras[0]),
        region(RIGHT, text_of(name, 5, 6, 13), loras[1], strength=0.5),
    )
    patched = with_regions(model, drawn)
    seen = watch_linears(patched)
    draw_dit(patched, name, *prompts(name), size, steps=1)
    family, _ = family_of(model.model.model_config.unet_config)
    sides = tuple(sides_of(family, model, size))
    checked = 0
    for site, module, x, output in seen:
        delta = output - torch.nn.functional.linear(x, module.weight, module.bias)
        role = family.role(f"diffusion_model.{site}")
        if role.stream not in streams:
            assert not delta.any()
            continue
        x, delta = x.flatten(1, -2), delta.flatten(1, -2)
        left, right = (rows_of(side, role.stream, x.shape[1]) for side in sides)
        key = next(s for s in loras[0].model if s.path == f"diffusion_model.{site}")
        for rows, lora, strength in ((left, loras[0], 1.0), (right, loras[1], 0.5)):
            expected = lora.model[key].on_rows(x[:, rows]) * strength
            torch.testing.assert_close(delta[:, rows], expected, atol=1e-4, rtol=1e-3)
        neither = ~(left | right)
        neither[-padding_of(model, size, role.stream, x.shape[1]) or len(neither) :] = False
        assert not delta[:, neither].any()
        checked += 1
    assert checked >= len(loras[0].model)


def sides_of(family, model, size):
    """Of both regions: words in the given and in the padded texts, cells of the image."""
    patch = family.latent.patch
    rows, columns = (-(-side // patch) for side in size)
    multiple = getattr(model.model.diffusion_model, "pad_tokens_multiple", None) or 1
    least = 512 if family.name == "flux2" else 0  # Flux.2 fills each text up to so many
    lengths = [max(count, least) for count in (9, 11, 13)]
    padded = [-(-count // multiple) * multiple for count in lengths]
    left = torch.zeros(rows, columns, dtype=torch.bool)
    left[:, : columns // 2] = True
    right = torch.zeros(rows, columns, dtype=torch.bool)
    right[:, -(-columns // 2) :] = True
    for number, cells in ((1, left), (2, right)):
        given, behind = (torch.zeros(sum(each), dtype=torch.bool) for each in (lengths, padded))
        given[sum(lengths[:number]) : sum(lengths[: number + 1])] = True
        behind[sum(padded[:number]) : sum(padded[: number + 1])] = True
        yield {"given": given, "padded": behind, "cells": cells.flatten()}


def rows_of(side, stream, count):
    """(count,) bool, the rows of a layer that are a region's."""
    if stream == TEXT:
        return next(rows for rows in (side["given"], side["padded"]) if len(rows) == count)
    own = side["cells"] if stream == IMAGE else torch.cat([side["padded"], side["cells"]])
    return torch.nn.functional.pad(own, (0, count - len(own)))


def padding_of(model, size, stream, count):
    """How many of a layer's rows are the image's padding."""
    multiple = getattr(model.model.diffusion_model, "pad_tokens_multiple", None) or 1
    cells = -(-size[0] // 2) * -(-size[1] // 2)
    padded = -(-cells // multiple) * multiple
    return padded - cells if stream != TEXT and count >= padded else 0


@pytest.mark.parametrize("changed", ["text", "lora"])
def test_one_region_alone_changes_with_its_own_text_and_lora_in_the_first_layers(
    name, model, changed
):
    """With isolation and no background, nothing of one side reaches the other but through the
    tokens of the whole picture, which only some models have."""
    other = region(RIGHT, text_of(name, 5, 6), random_lora(model, 2, streams=(IMAGE, TEXT, BOTH)))
    lora = random_lora(model, 1, streams=(IMAGE, TEXT, BOTH))
    first = region(LEFT, text_of(name, 3, 4), lora)
    second = (
        region(LEFT, text_of(name, 7, 4), lora)
        if changed == "text"
        else region(LEFT, text_of(name, 3, 4))
    )
    pictures = [
        draw_dit(with_regions(model, (own, other)), name, *prompts(name)) for own in (first, second)
    ]
    difference = (pictures[0] - pictures[1]).abs()
    assert difference[..., :8].max() > 0.01
    assert not difference[..., 8:].any()


# ---------------------------------------------------------------------- a dense mask says the same


@pytest.mark.parametrize("size", SIZES)
def test_groups_give_what_a_mask_over_all_pairs_gives(name, model, size, monkeypatch):
    fading = torch.linspace(0, 1, 32).expand(32, -1).contiguous()
    drawn = (
        region(None, text_of(name, 3, 4), random_lora(model, 1), mask=fading),
        region(LEFT, text_of(name, 5, None, 14), random_lora(model, 2), weight=0.6),
    )
    found = draw_dit(with_regions(model, drawn), name, *prompts(name), size)

    def dense(attend, q, k, v, heads, mask, groups, along, options):
        assert mask is None
        pairs = torch.full((q.shape[along], k.shape[along]), -1e9)
        for group in groups:
            keys = torch.arange(k.shape[along]) if group.keys is None else group.keys
            bias = torch.zeros(1, 1) if group.bias is None else group.bias
            pairs[group.queries[:, None], keys[None]] = bias.expand(len(group.queries), len(keys))
        return attend(q, k, v, heads, mask=pairs, **options)

    monkeypatch.setattr(joint_attention, "attend_groups", dense)
    expected = draw_dit(with_regions(model, drawn), name, *prompts(name), size)
    assert error(found, expected) <= 1e-4


# ------------------------------------------------------------------------------------- manners


def test_the_model_is_as_it_was_after_a_run_an_error_and_a_cancel(name, model):
    patched = with_regions(model, (region(LEFT, text_of(name, 3, 4), random_lora(model)),))
    before = describe(model), fingerprint(model), describe(patched)
    plain = draw_dit(model, name, *prompts(name))
    draw_dit(patched, name, *prompts(name))
    for problem in (RuntimeError, comfy.model_management.InterruptProcessingException):
        broken = patched.clone()
        layer = list(linear_sites(model).values())[-1]

        def fail(module, args, problem=problem):
            raise problem

        handle = layer.register_forward_pre_hook(fail)
        with pytest.raises(problem):
            draw_dit(broken, name, *prompts(name))
        handle.remove()
    assert (describe(model), fingerprint(model), describe(patched)) == before
    hooks = [m for m in model.model.modules() if m._forward_hooks or m._forward_pre_hooks]
    assert not hooks
    assert torch.equal(draw_dit(model, name, *prompts(name)), plain)


def test_two_pictures_in_a_batch_are_drawn_as_one_by_one_with_the_same_noise(name, model):
    patched = with_regions(model, (region(LEFT, text_of(name, 3, 4), random_lora(model)),))
    both = draw_dit(patched, name, *prompts(name), batch=2)
    again = draw_dit(patched, name, *prompts(name), batch=2)
    one = draw_dit(patched, name, *prompts(name), batch=1)
    assert torch.equal(both, again)
    assert error(both[:1], one) <= EXACT
