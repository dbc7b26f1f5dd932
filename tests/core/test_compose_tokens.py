"""Who sees whom in a sequence of text and image: gathered groups against the rule, by pairs."""

import math

import pytest
import torch

from mix_of_show.mos_core.compose.isolation import cell_members
from mix_of_show.mos_core.compose.tokens import (
    TextPlan,
    read_shares,
    see_across,
    see_image,
    see_jointly,
    see_texts,
)
from mix_of_show.mos_core.regions.region import Box, Region, Regions, shares

ROWS, COLUMNS, REST = 4, 6, 3
CELLS = ROWS * COLUMNS
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


def soft():
    """A mask that fades from left to right."""
    return torch.linspace(0, 1, COLUMNS).expand(ROWS, -1).contiguous()


LAYOUTS = {
    "halves": (Region("a", box=LEFT), Region("b", box=RIGHT)),
    "background": (Region("a", box=Box(0, 0, 0.25, 0.5)), Region("b", box=Box(0.5, 0.5, 1, 1))),
    "overlap": (Region("a", box=Box(0, 0, 0.75, 1)), Region("b", box=Box(0.25, 0, 1, 1))),
    "depth": Regions(
        64, 48, (Region("a", box=LEFT, depth=1.0), Region("b", box=Box(0.25, 0, 1, 1)))
    ).regions,
    "weights": (Region("a", box=LEFT, weight=0.3), Region("b", box=RIGHT, weight=1.0)),
    "soft": (Region("a", mask=soft()), Region("b", mask=1 - soft())),
    "everywhere": (Region("a", box=Box(0, 0, 1, 1)), Region("b", box=LEFT, weight=0.0)),
}
# Words and room of the global text and of two regions' texts.
PLANS = {
    "full": TextPlan(((5, 5), (4, 4), (3, 3))),
    "room": TextPlan(((5, 5), (2, 4), (3, 6))),
    "without": TextPlan(((5, 5), (0, 0), (3, 3))),
    "silent": TextPlan(((5, 5), (0, 4), (3, 3))),
}


def picture(regions):
    """Members and shares of the image's tokens, those of the whole picture behind the cells."""
    member = torch.cat([cell_members(regions, ROWS, COLUMNS), torch.zeros(2, REST).bool()], 1)
    own = shares(regions, ROWS, COLUMNS).flatten(1)
    return member, torch.cat([own, own.mean(1, keepdim=True).expand(-1, REST)], 1)


def matrix(groups, queries, keys):
    """(queries, keys) what is added to each logit, -inf where nothing is seen."""
    logits = torch.full((queries, keys), -math.inf)
    for group in groups:
        seen = torch.arange(keys) if group.keys is None else group.keys
        bias = torch.zeros(1, 1) if group.bias is None else group.bias
        logits[group.queries[:, None], seen[None]] = bias.expand(len(group.queries), len(seen))
    return logits


def rule(regions, plan, mode, kind):
    """The same, token by token, from the words of the rule."""
    member, parts = picture(regions)
    reads = read_shares(parts, plan)
    text_of = {token: number for number, words in enumerate(plan.ranges) for token in words}
    total = plan.total
    size = total + member.shape[1]

    def image_sees(query: set, key: set):
        return mode == "off" or not query or not key or bool(query & key)

    def regions_of(token):
        if token < total:
            return {text_of[token] - 1} if text_of.get(token, 0) else set()
        return set(member[:, token - total].nonzero()[:, 0].tolist())

    logits = torch.full((size, size), -math.inf)
    for query in range(size):
        for key in range(size):
            if query < total and query not in text_of:  # nobody's token
                seen = 0.0 if key < total and key not in text_of else -math.inf
            elif key < total and key not in text_of:
                seen = -math.inf
            elif query < total and key < total:
                seen = 0.0 if text_of[query] == text_of[key] else -math.inf
            elif key < total:
                share = reads[text_of[key], query - total].item()
                seen = math.log(share) if share > 0 else -math.inf
            else:
                seen = 0.0 if image_sees(regions_of(query), regions_of(key)) else -math.inf
            logits[query, key] = seen
    image = slice(total, size)
    return {
        "joint": logits,
        "text": logits[:total, :total],
        "image": logits[image, image],
        "cross": logits[image, :total],
    }[kind]


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_pair_of_a_joint_sequence_follows_the_rule(layout, plan, mode):
    regions, plan = LAYOUTS[layout], PLANS[plan]
    groups = see_jointly(plan, *picture(regions), mode)
    size = plan.total + CELLS + REST
    torch.testing.assert_close(matrix(groups, size, size), rule(regions, plan, mode, "joint"))


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_text_alone_image_alone_and_cross_attention_follow_it_too(layout, mode):
    regions, plan = LAYOUTS[layout], PLANS["room"]
    member, parts = picture(regions)
    image = CELLS + REST
    found = {
        "text": matrix(see_texts(plan), plan.total, plan.total),
        "image": matrix(see_image(member, mode), image, image),
        "cross": matrix(see_across(plan, member, parts, mode), image, plan.total),
    }
    for kind, logits in found.items():
        torch.testing.assert_close(logits, rule(regions, plan, mode, kind))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_token_is_in_one_group(layout):
    for plan in PLANS.values():
        groups = see_jointly(plan, *picture(LAYOUTS[layout]), "on")
        queries = torch.cat([group.queries for group in groups])
        assert sorted(queries.tolist()) == list(range(plan.total + CELLS + REST))


def test_a_region_and_its_words_are_one_group_without_a_mask():
    groups = see_jointly(PLANS["full"], *picture(LAYOUTS["halves"]), "on")
    hard = [group for group in groups if group.bias is None]
    assert sorted(len(group.queries) for group in hard) == [5, 3 + CELLS // 2, 4 + CELLS // 2]


def test_shares_of_a_cell_sum_to_one_and_silent_regions_read_the_global_text():
    for layout in LAYOUTS.values():
        _, parts = picture(layout)
        reads = read_shares(parts, PLANS["silent"])
        torch.testing.assert_close(reads.sum(0), torch.ones(reads.shape[1]))
        assert not reads[1].any()
