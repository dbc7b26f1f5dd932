"""Regions from attention on maps made by hand."""

import numpy as np
import pytest
import torch

from mix_of_show.mos_core.find.maps import compete, contrast, spread
from mix_of_show.mos_core.find.outline import FINER, draw_outlines, free_place
from mix_of_show.mos_core.find.picture import draw_found
from mix_of_show.mos_core.find.places import assign_things, divide
from mix_of_show.mos_core.find.report import describe_places
from mix_of_show.mos_core.find.settings import FindSettings
from mix_of_show.mos_core.find.silhouettes import FOUND, FREE, KEPT, LEFT_OUT, Maps, find_places
from mix_of_show.mos_core.find.things import find_things
from mix_of_show.mos_core.regions.region import Region, Regions

ROWS, COLUMNS = 16, 32


def disc(x, y=8.0, radius=3.5, strength=1.0):
    """(ROWS, COLUMNS): a soft-edged disc on a floor of 0.02."""
    rows, columns = torch.meshgrid(torch.arange(ROWS), torch.arange(COLUMNS), indexing="ij")
    away = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    return 0.02 + strength * torch.sigmoid(2 * (radius - away))


def noise(seed=0):
    return 0.02 + 0.004 * torch.rand(ROWS, COLUMNS, generator=torch.Generator().manual_seed(seed))


def middles(places):
    """Of each mask, in cells from the left; None where there is none."""
    found = []
    for place in places:
        if place.mask is None:
            found.append(None)
            continue
        columns = place.mask.sum(0)
        found.append(float((columns * torch.arange(len(columns))).sum() / columns.sum()) / FINER)
    return found


def find(*maps, boxes=None, own=None, **settings):
    return find_places(Maps(torch.stack(maps), own), FindSettings(**settings), boxes)


# ------------------------------------------------------------------------- maps


def test_spreading_fills_what_belongs_together_and_nothing_else():
    own = torch.full((4, 4), 0.02)  # cells 0 and 1 look at each other, so do 2 and 3
    for a, b in ((0, 1), (2, 3)):
        own[a, b] = own[b, a] = 0.9
    own = own / own.sum(1, keepdim=True)
    words = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    told = spread(words, own, 1)[0, 0]
    torch.testing.assert_close(told[0], told[1])
    assert told[0] > 0.4
    assert told[2:].abs().max() < 1e-6
    assert torch.equal(spread(words, own, 0), words)
    assert torch.equal(spread(words, None, 3), words)


def test_self_attention_that_sees_everything_alike_leaves_a_map_as_it_is():
    words = torch.rand(2, 3, 4)
    even = torch.full((12, 12), 1 / 12)
    torch.testing.assert_close(spread(words, even, 2), words / 3)


def test_contrast_runs_from_the_median_to_the_bright_part_and_tells_noise():
    scores, clear = contrast(torch.stack([disc(8), noise()]))
    assert scores[0, 8, 8] == 1
    assert scores[0, 0, 31] < 0.01
    assert clear[0] == 1
    assert clear[1] < 0.05


def test_a_flat_map_is_nothing():
    scores, clear = contrast(torch.stack([disc(8), torch.ones(ROWS, COLUMNS)]))
    assert scores[1].max() == 0
    assert clear[1] == 0


def test_shares_of_a_cell_add_up_to_one():
    parts = compete(torch.rand(3, ROWS, COLUMNS))
    torch.testing.assert_close(parts.sum(0), torch.ones(ROWS, COLUMNS))


def test_a_strong_concept_does_not_swallow_the_place_of_a_weak_one():
    both = 0.5 * (disc(8) + disc(24))  # the strong one looks at both things
    scores = torch.stack([both / both.max(), 0.8 * disc(24) / disc(24).max()])
    free, held = compete(scores, most=9.0, least=0.0), compete(scores)
    assert held[1].mean() > free[1].mean()
    assert held[:-1].sum((1, 2)).min() >= 0.35 / 2 * held[:-1].sum()
    torch.testing.assert_close(held[-1], free[-1])  # the background stays


# ------------------------------------------------------------------------- things


def test_things_are_connected_parts_without_holes_and_specks():
    drawn = (disc(8, radius=4) > 0.5).numpy()
    drawn[8, 8] = False
    drawn[0, 31] = True
    (thing,) = find_things(drawn)
    assert thing[8, 8]
    assert not thing[0, 31]


def test_touching_things_are_split_where_one_map_overtakes_the_other():
    left, right = disc(12), disc(18)
    masses = torch.stack([left, right])
    masses = (masses / masses.sum((1, 2), keepdim=True)).numpy()
    drawn = (torch.maximum(left, right) > 0.5).numpy()
    assert len(find_things(drawn)) == 1
    things, whose = divide(drawn, masses)
    assert len(things) == 2
    middle = [np.argwhere(things[n])[:, 1].mean() for n in whose]
    assert middle == pytest.approx([12, 18], abs=1)


def test_two_of_one_kind_in_one_piece_are_split_in_the_middle():
    both = disc(12) + disc(19)
    masses = np.stack([both.numpy() / float(both.sum())] * 2)
    things, whose = divide((both > 0.5).numpy(), masses)
    assert len(things) == 2
    assert sorted(whose) == [0, 1]
    assert [np.argwhere(things[n])[:, 1].mean() for n in whose] == pytest.approx([12, 19], abs=1.5)


def test_one_thing_of_one_concept_stays_whole():
    mass = disc(16).numpy()
    things, _ = divide(mass > 0.5, mass[None] / mass.sum())
    assert len(things) == 1


def test_every_thing_goes_to_one_concept_at_most():
    things = find_things(((disc(6) + disc(26)) > 0.5).numpy())
    mass = disc(6) + 0.8 * disc(26)  # both concepts look more at the left thing
    masses = np.stack([(mass / mass.sum()).numpy()] * 2)
    whose, _ = assign_things(things, masses)
    assert sorted(whose) == [0, 1]
    assert assign_things([], masses)[0] == [None, None]


# ------------------------------------------------------------------------- places


def test_each_concept_gets_the_place_that_its_words_look_at():
    places = find(disc(24), disc(8))
    assert [place.how for place in places] == [FOUND, FOUND]
    assert middles(places) == pytest.approx([24, 8], abs=1)
    assert all(place.share > 0.6 for place in places)


def test_look_alikes_that_share_one_map_get_two_places_in_the_words_order():
    both = disc(8) + disc(24)
    places = find(both, both)
    assert middles(places) == pytest.approx([8, 24], abs=1)


def test_three_people_with_one_map_get_three_places():
    crowd = disc(5, radius=2.5) + disc(16, radius=2.5) + disc(27, radius=2.5)
    assert middles(find(crowd, crowd, crowd)) == pytest.approx([5, 16, 27], abs=1)


def test_masks_of_different_things_do_not_overlap():
    one, other = (place.mask for place in find(disc(12), disc(18), feather=0.0, grow=1.0))
    assert (one * other).max() == 0


def test_a_concept_that_was_not_drawn_gets_a_free_place_or_none():
    places = find(disc(8), noise())
    assert [place.how for place in places] == [FOUND, FREE]
    apart = (places[0].mask * places[1].mask).sum() / places[1].mask.sum()
    assert apart < 0.05
    places = find(disc(8), noise(), missing="left out")
    assert [place.how for place in places] == [FOUND, LEFT_OUT]
    assert places[1].mask is None


def test_nothing_at_all_is_no_error():
    places = find(torch.ones(ROWS, COLUMNS), torch.ones(ROWS, COLUMNS))
    assert [place.how for place in places] == [FREE, FREE]
    assert (places[0].mask * places[1].mask).sum() < 0.1 * places[0].mask.sum()


def test_inside_boxes_each_silhouette_stays_in_its_own():
    both = disc(8) + disc(24)
    left = torch.zeros(ROWS, COLUMNS)
    left[:, :16] = 1
    places = find(both, both, boxes=[1 - left, left], feather=0.0)
    assert middles(places) == pytest.approx([24, 8], abs=1)


def test_a_box_in_which_nothing_is_found_is_kept():
    left = torch.zeros(ROWS, COLUMNS)
    left[:, :16] = 1
    places = find(disc(24), disc(24), boxes=[left, 1 - left])
    assert places[0].how == KEPT
    assert places[0].mask is None
    assert places[1].how == FOUND


@pytest.mark.parametrize("shape", ["area", "box"])
def test_wider_shapes_hold_the_silhouette(shape):
    things = find_things((disc(16) > 0.5).numpy())
    (outline,) = draw_outlines(things, "silhouette", 0.2, 0.0)
    (wider,) = draw_outlines(things, shape, 0.2, 0.0)
    assert wider.sum() > 1.2 * outline.sum()
    assert (wider[outline > 0] > 0).all()


def test_growth_and_feather_are_in_shares_of_the_thing_and_cells():
    things = find_things((disc(16) > 0.5).numpy())
    (plain,) = draw_outlines(things, "silhouette", 0.0, 0.0)
    (grown,) = draw_outlines(things, "silhouette", 0.5, 0.0)
    (soft,) = draw_outlines(things, "silhouette", 0.0, 1.0)
    side = float(plain.sum()) ** 0.5
    wanted = side * (1 + 2 * 0.5 / 2 * 3.14159**0.5)  # of a disc: radius + side / 2
    assert float(grown.sum()) ** 0.5 == pytest.approx(wanted, rel=0.1)
    assert set(plain.unique().tolist()) == {0.0, 1.0}
    assert 0 < soft[(plain == 0)].max() < 1


def test_a_free_place_lies_beside_what_is_taken():
    thing = (disc(8) > 0.5).numpy()
    place = free_place([thing], 1.0, ROWS, COLUMNS)
    assert not (place & thing).any()
    assert np.argwhere(place)[:, 1].mean() > 20


# ------------------------------------------------------------------------- told


def test_the_report_names_what_was_not_found():
    lines = describe_places(["wizard", "cat"], find(disc(8), noise()))
    assert lines[0].startswith("wizard: found (")
    assert lines[1].startswith("cat: NOT found")
    assert "1 of 2 things were found" in lines[2]
    assert lines[2].endswith("cat.")


def test_the_picture_shows_the_regions_and_every_map():
    places = find(disc(8), disc(24))
    regions = Regions(256, 128, tuple(Region("x", mask=place.mask) for place in places))
    pictures = draw_found(regions, Maps(torch.stack([disc(8), disc(24)])), None)
    assert pictures.shape == (3, 128, 256, 3)
    assert pictures[1, 64, 64].min() > 0.9 > pictures[1, 64, 192].max()
