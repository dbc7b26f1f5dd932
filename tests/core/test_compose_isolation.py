"""Ring 1: who sees whom where regions are isolated."""

import pytest
import torch

from mix_of_show.mos_core.compose.isolation import (
    BARRED,
    Isolation,
    cell_members,
    isolate,
    isolation_bias,
    open_borders,
    sees,
    signatures,
)
from mix_of_show.mos_core.regions.region import Region
from support.region_layouts import (
    COLUMNS,
    LAYOUTS,
    ROWS,
    random,
    regions,  # noqa: F401 (fixtures)
)

# ------------------------------------------------------------------------------------ isolation


@pytest.mark.parametrize("mode", ["on", "reference"])
def test_gathered_groups_are_attention_with_a_mask(mode, regions):
    q, k, v = (random(2, ROWS * COLUMNS, 8, seed=s) for s in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    groups = isolate(cell_members(regions, ROWS, COLUMNS), mode)
    bias = isolation_bias(groups, ROWS * COLUMNS)
    expected = attend(q, k, v, attn_mask=bias)
    found = torch.full_like(q, torch.nan)
    for queries, seen in (one for group in groups for one in group.sets()):
        keys = slice(None) if seen is None else seen
        found[:, queries] = attend(q[:, queries], k[:, keys], v[:, keys])
    torch.testing.assert_close(found, expected)


def test_a_cell_sees_its_own_regions_and_the_background_and_nothing_else(regions):
    inside = torch.zeros(len(regions), ROWS * COLUMNS, dtype=torch.bool)
    for number, region in enumerate(regions):
        cover = Region("", box=region.box, mask=region.mask).weights(ROWS, COLUMNS).flatten()
        inside[number] = (cover >= 0.5) & (region.weight > 0)
    bias = isolation_bias(isolate(cell_members(regions, ROWS, COLUMNS), "on"), ROWS * COLUMNS)
    background = ~inside.any(0)
    shared = (inside.T.float() @ inside.float()) > 0
    allowed = shared | background[:, None] | background[None, :]
    assert torch.equal(bias == 0, allowed)
    assert torch.equal(bias == BARRED, ~allowed)


def test_the_public_codes_mask_adds_up_pairs_of_different_regions():
    regions = LAYOUTS["overlapping"]
    inside = torch.stack([region.weights(ROWS, COLUMNS).flatten() for region in regions])
    barred = torch.zeros(ROWS * COLUMNS, ROWS * COLUMNS)
    for a in range(3):
        for b in range(3):
            if a != b:
                barred += inside[a][:, None] * inside[b][None, :]
    bias = isolation_bias(
        isolate(cell_members(regions, ROWS, COLUMNS), "reference"), ROWS * COLUMNS
    )
    assert torch.equal(bias == 0, barred == 0)


def test_words_of_a_regions_text_are_members_of_it_where_they_run_beside_cells():
    """Joint attention: a global word, a word of each region, then a cell of each and background."""
    member = torch.tensor([[0, 1, 0, 1, 0, 0], [0, 0, 1, 0, 1, 0]], dtype=torch.bool)
    groups = isolate(member, "on")
    seen = {q: keys for group in groups for own, keys in group.sets() for q in own.tolist()}
    assert seen[0] is None
    assert seen[5] is None
    assert seen[1].tolist() == seen[3].tolist() == [0, 1, 3, 5]
    assert seen[2].tolist() == seen[4].tolist() == [0, 2, 4, 5]


def test_every_cell_is_in_one_group(regions):
    cells = torch.cat(list(signatures(cell_members(regions, ROWS, COLUMNS)).values()))
    assert torch.equal(cells.sort().values, torch.arange(ROWS * COLUMNS))
    assert signatures(cell_members([], 2, 2))[frozenset()].tolist() == [0, 1, 2, 3]


def test_who_sees_whom():
    a, b, both, none = frozenset({0}), frozenset({1}), frozenset({0, 1}), frozenset()
    assert sees(a, both, "on")
    assert sees(both, b, "on")
    assert not sees(a, b, "on")
    assert not sees(a, both, "reference")
    assert not sees(both, both, "reference")
    for mode in ("on", "reference"):
        assert sees(a, none, mode)
        assert sees(none, both, mode)
        assert sees(a, a, mode)


# ---------------------------------------------------------------------------------- open borders


def sides(*parts, rows=4, columns=12):
    """Members of regions that are full columns, [first, end) each."""
    member = torch.zeros(len(parts), rows, columns, dtype=torch.bool)
    for number, (first, end) in enumerate(parts):
        member[number, :, first:end] = True
    return member.flatten(1)


def columns_of(member, rows=4):
    return [
        sorted({int(i) for i in part.nonzero()[:, 1]}) for part in member.unflatten(1, (rows, -1))
    ]


def test_a_border_is_open_where_regions_touch_and_nowhere_else():
    found = open_borders(sides((0, 6), (6, 12)), 4, 12, 0.25)  # a quarter of sqrt(24) is one cell
    assert columns_of(found) == [[0, 1, 2, 3, 4], [7, 8, 9, 10, 11]]
    apart = sides((0, 5), (7, 12))
    assert torch.equal(open_borders(apart, 4, 12, 0.25), apart)


def test_a_border_grows_with_its_own_region():
    found = open_borders(sides((0, 9), (9, 12)), 4, 12, 0.4)  # sqrt(36) and sqrt(12): two and one
    assert columns_of(found) == [[0, 1, 2, 3, 4, 5, 6], [10, 11]]


def test_cells_that_see_each_other_have_no_border_between_them():
    """Of two overlapping regions the overlap sees both, and lies between them."""
    both = sides((0, 8), (4, 12))
    assert torch.equal(open_borders(both, 4, 12, 0.25), both)
    assert torch.equal(open_borders(both, 4, 12, 0.5), both)


@pytest.mark.parametrize("share", [0.05, 0.25, 0.5])
def test_open_borders_are_those_of_a_search_around_every_cell(regions, share):
    member = cell_members(regions, ROWS, COLUMNS)
    cells = [(row, column) for row in range(ROWS) for column in range(COLUMNS)]
    sets = {cell: set(member[:, i].nonzero()[:, 0].tolist()) for i, cell in enumerate(cells)}
    expected = member.clone()
    for number, (row, column) in enumerate(cells):
        own = sets[row, column]
        sizes = [int(member[region].sum()) for region in own]
        reach = max([1, *(round(share * size**0.5) for size in sizes)])
        for (down, right), other in sets.items():
            near = abs(row - down) <= reach and abs(column - right) <= reach
            if near and own and other and not own & other:
                expected[:, number] = False
    assert torch.equal(open_borders(member, ROWS, COLUMNS, share), expected)


def test_without_a_border_isolation_is_the_published_one(regions):
    found = Isolation("on").members(regions, ROWS, COLUMNS)
    assert torch.equal(found, cell_members(regions, ROWS, COLUMNS))


def test_cells_of_an_open_border_see_all_and_are_seen_by_all(regions):
    closed = cell_members(regions, ROWS, COLUMNS)
    member = Isolation("on", 0.25).members(regions, ROWS, COLUMNS)
    free = closed.any(0) & ~member.any(0)
    bias = isolation_bias(isolate(member, "on"), ROWS * COLUMNS)
    assert not bias[free].any()
    assert not bias[:, free].any()
    strict = isolation_bias(isolate(closed, "on"), ROWS * COLUMNS)
    inside = member.any(0)
    assert torch.equal(bias[inside][:, inside], strict[inside][:, inside])
