"""Depth, strength and reference of regions that nodes add."""

import torch

from mix_of_show.mos_core.regions.added import with_values
from mix_of_show.mos_core.regions.from_mask_batch import add_masks
from mix_of_show.mos_core.regions.from_masks import add_mask
from mix_of_show.mos_core.regions.layout_json import format_layout, parse_layout
from mix_of_show.mos_core.regions.region import Box, Region, Regions, shares

BEFORE = Regions(64, 64, (Region("sky", box=Box(0, 0, 1, 1)),))


def test_values_are_those_of_the_new_regions_alone():
    masks = torch.ones(2, 64, 64)
    added = with_values(add_masks(masks, "one\ntwo", before=BEFORE), BEFORE, 2, 0.5, " 1 ")
    sky, *new = added.regions
    assert (sky.depth, sky.strength, sky.reference) == (None, 1.0, None)
    assert [(r.depth, r.strength, r.reference) for r in new] == [(2.0, 0.5, "1")] * 2
    assert shares(added.regions, 4, 4)[0].max() == 0  # they are in front


def test_nothing_set_is_nothing_changed():
    added = add_mask(torch.ones(8, 8), "one", before=BEFORE)
    again = with_values(added, BEFORE)
    assert again.notes == added.notes
    assert [(r.depth, r.strength, r.reference) for r in again.regions] == [(None, 1.0, None)] * 2


def test_a_layout_keeps_the_values():
    added = with_values(add_mask(torch.ones(64, 64), "one"), None, -1, 1.5, "3")
    (again,) = parse_layout(format_layout(added), 64, 64).regions
    assert (again.depth, again.strength, again.reference) == (-1.0, 1.5, "3")
