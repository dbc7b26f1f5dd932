"""Placement without gradients on diffusion transformers."""

import pytest
import torch

from mix_of_show.mos_core.compose.placement import placement_scale
from mix_of_show.mos_core.patch.regional import joint_attention
from support.dit_models import JOINT, dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import LEFT, RIGHT, error, random_lora, region, text_of, with_regions


def test_it_falls_from_one_to_nothing_over_the_first_third():
    scales = [placement_scale(step / 12) for step in range(12)]
    assert scales[0] == 1
    assert scales[2] == pytest.approx(0.5)
    assert all(scale == 0 for scale in scales[4:])
    assert scales == sorted(scales, reverse=True)


def prompts(name):
    return dit_conditioning(name, 1), dit_conditioning(name, 2)


def halves(name, model=None):
    loras = (None, None) if model is None else (random_lora(model, 1), random_lora(model, 2))
    return (
        region(LEFT, text_of(name, 3, 4), loras[0]),
        region(RIGHT, text_of(name, 5, 6, 14), loras[1]),
    )


@pytest.mark.parametrize("name", JOINT)
def test_none_is_as_before_bit_for_bit_and_some_only_counts_in_the_first_third(name, monkeypatch):
    model = tiny_dit(name)
    plain = with_regions(model, halves(name, model))
    placed = with_regions(model, halves(name, model), placement=2.5)
    off = with_regions(model, halves(name, model), placement=0.0)
    expected = draw_dit(plain, name, *prompts(name), steps=6)
    assert torch.equal(draw_dit(off, name, *prompts(name), steps=6), expected)
    amounts = []
    attend = joint_attention.GroupedAttention.attend_all
    monkeypatch.setattr(
        joint_attention.GroupedAttention,
        "attend_all",
        lambda self, *args: amounts.append(self.placement) or attend(self, *args),
    )
    found = draw_dit(placed, name, *prompts(name), steps=6)
    assert sorted(set(amounts)) == [0, pytest.approx(1.25), 2.5]
    assert error(found, expected) > 1e-4


@pytest.mark.parametrize("name", JOINT)
def test_own_words_get_exactly_so_much_more_in_the_logits(name, monkeypatch):
    """Against a mask over all pairs, of the image's queries alone."""
    model = tiny_dit(name)
    found = draw_dit(
        with_regions(model, halves(name), placement=1.5), name, *prompts(name), steps=1
    )

    def dense(attend, q, k, v, heads, mask, groups, along, options):
        pairs = torch.full((q.shape[along], k.shape[along]), -1e9)
        for group in groups:
            keys = torch.arange(k.shape[along]) if group.keys is None else group.keys
            pairs[group.queries[:, None], keys[None]] = 0.0
            if group.own is not None:
                words = keys[group.own > 0]
                pairs[group.queries[:, None], words[None]] = 1.5
        return attend(q, k, v, heads, mask=pairs, **options)

    monkeypatch.setattr(joint_attention, "attend_groups", dense)
    expected = draw_dit(
        with_regions(model, halves(name), placement=1.5), name, *prompts(name), steps=1
    )
    assert error(found, expected) <= 1e-4
