"""Regional attention, injection and isolation on plain tensors: by hand and against dense masks."""

import pytest
import torch

from mix_of_show.mos_core.compose.attention import (
    common_length,
    gather,
    mix_regions,
    place_regions,
    repeat_tokens,
    scatter,
)
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.injection import (
    RANK_TOGETHER,
    Injection,
    inject,
    make_bundles,
    make_gates,
    stack_deltas,
)
from mix_of_show.mos_core.deltas import LowRank, Whole
from mix_of_show.mos_core.records import Bound, Site
from mix_of_show.mos_core.regions.region import Box, Region, shares
from support.region_layouts import (
    COLUMNS,
    LAYOUTS,
    LEFT,
    ROWS,
    random,
    regions,  # noqa: F401 (fixtures)
)

BLOCK = "diffusion_model.middle_block.1.transformer_blocks.0"


def pair(rank, into=6, out=5, seed=0):
    return LowRank(random(rank, into, seed=seed), random(out, rank, seed=seed + 1))


def concept(deltas):
    """deltas: path of a module -> its delta."""
    return Bound(None, {Site(f"{path}.weight"): delta for path, delta in deltas.items()}, {})


def drawn(regions, concepts):
    """Regions with their concepts (None: without)."""
    return [Drawn(r, RegionText(None, None), c) for r, c in zip(regions, concepts, strict=True)]


# ------------------------------------------------------------------------- regional attention


def test_mixing_is_the_sum_by_shares(regions):
    base = random(2, ROWS * COLUMNS, 3)
    own = random(len(regions), 2, ROWS * COLUMNS, 3, seed=1)  # each region's attention everywhere
    placement = place_regions(regions, [77] * len(regions), ROWS, COLUMNS)
    outputs = [
        torch.stack(
            [
                own[m][:, group.cells.view(len(group.members), -1)[i]]
                for i, m in enumerate(group.members)
            ]
        )
        for group in placement.groups
    ]
    part = shares(regions, ROWS, COLUMNS).flatten(1)
    expected = base * (1 - part.sum(0))[:, None]
    for r in range(len(regions)):
        expected = expected + own[r] * part[r][:, None]
    if not placement.groups:
        assert torch.equal(part, torch.zeros_like(part))
        return
    found = mix_regions(base, outputs, placement)
    torch.testing.assert_close(found, expected)
    outside = part.sum(0) == 0
    assert torch.equal(found[:, outside], base[:, outside])
    again = mix_regions(base.clone(), outputs, placement, in_place=True)
    assert torch.equal(again, found)
    assert placement.everything == bool((part.sum(0) == 1).all())
    if placement.everything:
        assert torch.equal(mix_regions(None, outputs, placement), found)


def test_regions_of_one_size_and_length_run_as_one_batch():
    regions = [*LAYOUTS["side by side"], Region("c", box=Box(0, 0, 0.25, 1))]
    placement = place_regions(regions, [77, 77, 77], ROWS, COLUMNS)
    assert sorted(group.members for group in placement.groups) == [(0, 1), (2,)]
    placement = place_regions(regions, [77, 154, 77], ROWS, COLUMNS)
    assert len(placement.groups) == 3


def test_gather_and_scatter_are_each_others_inverse():
    placement = place_regions(LAYOUTS["side by side"], [77, 77], ROWS, COLUMNS)
    (group,) = placement.groups
    tokens = random(3, ROWS * COLUMNS, 2)
    assert torch.equal(scatter(gather(tokens, group)), tokens[:, group.cells])


def test_attention_to_repeated_tokens_is_the_same():
    q, k, v = random(1, 7, 8), random(1, 6, 8, seed=1), random(1, 6, 8, seed=2)
    attend = torch.nn.functional.scaled_dot_product_attention
    found = attend(q, repeat_tokens(k, 18), repeat_tokens(v, 18))
    torch.testing.assert_close(found, attend(q, k, v))
    assert common_length([77, 154, 231]) == 462


# ------------------------------------------------------------------------------------ injection


@pytest.mark.parametrize(
    "deltas",
    [
        [pair(4), None, pair(2, seed=3)],
        [Whole(random(5, 6, seed=7)), None, pair(2, seed=3)],
        [None, Whole(random(5, 6, seed=7)), None],
    ],
    ids=["low rank", "mixed", "whole"],
)
def test_stacked_deltas_are_each_regions_own(deltas):
    own = random(3, 2, 7, 6, seed=9)
    stack = stack_deltas(deltas, "cpu", torch.float32)
    found = stack.on(own)
    for number, one in enumerate(deltas):
        expected = own[number] @ one.matrix().T if one else torch.zeros(2, 7, 5)
        torch.testing.assert_close(found[number], expected)
        torch.testing.assert_close(stack.of(number).on(own[number, None])[0], expected)
        if one is not None:
            alone = stack_deltas([one], "cpu", torch.float32).on_one(own[number])
            torch.testing.assert_close(alone, expected)
    assert stack_deltas([None, None], "cpu", torch.float32) is None


@pytest.mark.parametrize("enough", [1.0, 0.0], ids=["gathered", "everywhere"])
@pytest.mark.parametrize("kind", ["one bundle", "two bundles", "whole"])
@pytest.mark.parametrize("in_place", [False, True])
def test_injected_deltas_are_the_sum_by_shares_and_exactly_nothing_elsewhere(
    kind, in_place, enough, regions
):
    first = {
        "one bundle": pair(4),
        "two bundles": pair(RANK_TOGETHER),
        "whole": Whole(random(5, 6)),
    }[kind]
    deltas = [first, pair(4, seed=5)]
    chain = [concept({}), concept({}), None][: len(regions)]
    part = Injection("full", drawn(regions, chain)).shares(ROWS, COLUMNS)
    x, output = random(2, ROWS * COLUMNS, 6), random(2, ROWS * COLUMNS, 5, seed=1)
    deltas = deltas[: len(part)]
    bundles = make_bundles(deltas, "cpu", torch.float32)
    assert len(bundles) == (len(deltas) if kind != "one bundle" else 1)
    found = output.clone()
    for bundle in bundles:
        gates = make_gates(bundle.concepts, bundle.ranks, part, "cpu", torch.float32, enough)
        if gates is not None:
            assert enough or gates.tokens is None
            found = inject(found, x, bundle, gates, in_place)
    expected = output.clone()
    for number, one in enumerate(deltas):
        expected += part[number][:, None] * (x @ one.matrix().T)
    torch.testing.assert_close(found, expected)
    outside = part.sum(0) == 0
    assert torch.equal(found[:, outside], output[:, outside])


def test_text_tokens_have_gates_of_their_own_where_they_run_beside_cells():
    """Joint attention: three words of the region's text, then four cells of which it has two."""
    part = torch.tensor([[1.0, 1.0, 1.0, 0.0, 0.5, 1.0, 0.0]])
    gates = make_gates((0,), (2,), part, "cpu", torch.float32)
    assert gates.tokens.tolist() == [0, 1, 2, 4, 5]
    assert gates.gates.tolist() == [[1, 1]] * 3 + [[0.5, 0.5], [1, 1]]


def test_a_setting_says_which_layers_get_deltas():
    names = ("attn1.to_q", "attn2.to_q", "attn2.to_k", "attn2.to_out.0", "ff.net.2")
    one = concept({f"{BLOCK}.{name}": pair(2) for name in names})
    regions = drawn(LAYOUTS["side by side"], [one, None])

    def injected(setting):
        injection = Injection(setting, regions, [f"{BLOCK}.attn2"])
        cross = {
            part
            for part in ("to_q", "to_k", "to_v", "to_out.0")
            if injection.in_cross(f"{BLOCK}.attn2", part)[0] is not None
        }
        return cross, {site.path.removeprefix(f"{BLOCK}.") for site in injection.elsewhere}

    assert injected("reference") == ({"to_k", "to_out.0"}, set())
    assert injected("paper") == ({"to_q", "to_k", "to_out.0"}, set())
    assert injected("full") == ({"to_q", "to_k", "to_out.0"}, {"attn1.to_q", "ff.net.2"})


def test_a_concept_without_deltas_or_without_a_region_is_not_injected():
    """(Bound has no deltas for a strength of 0.)"""
    for one in (concept({}), None):
        injection = Injection("full", drawn([Region("a", box=LEFT)], [one]), [f"{BLOCK}.attn2"])
        assert injection.elsewhere == {}
        assert injection.in_cross(f"{BLOCK}.attn2", "to_k") == [None]


def test_the_regions_strength_scales_the_delta():
    one = pair(2)
    region = Region("a", box=LEFT, strength=0.3)
    regions = drawn([region], [concept({f"{BLOCK}.attn2.to_k": one})])
    (found,) = Injection("reference", regions).in_cross(f"{BLOCK}.attn2", "to_k")
    torch.testing.assert_close(found.matrix(), 0.3 * one.matrix())


def test_regions_of_one_concept_share_its_deltas():
    one = concept({f"{BLOCK}.ff.net.2": pair(2)})
    injection = Injection("full", drawn(LAYOUTS["side by side"], [one, one]))
    assert injection.concepts == (one,)
    assert [len(deltas) for deltas in injection.elsewhere.values()] == [1]
    assert injection.shares(ROWS, COLUMNS).eq(1).all()
