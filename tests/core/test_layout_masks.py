"""Layouts of version 2: masks as runs, depth, strength, hidden regions; and how depth divides."""

import json

import pytest
import torch

from mix_of_show.mos_core.compose.cells import region_cells
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.injection import Injection
from mix_of_show.mos_core.compose.isolation import cell_members, signatures
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.records import Bound
from mix_of_show.mos_core.regions.from_masks import add_mask
from mix_of_show.mos_core.regions.layout_json import format_layout, parse_layout
from mix_of_show.mos_core.regions.mask_runs import grid_of, read_mask, write_mask
from mix_of_show.mos_core.regions.picture import PAPER, draw_regions
from mix_of_show.mos_core.regions.region import Box, Region, Regions, shares

WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
MIDDLE = Box(0.25, 0, 0.75, 1)
DISC = {"size": [4, 4], "runs": [1, 2, 1, 8, 1, 2, 1]}  # a square of 4 x 4 without its corners
ROUND = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]).float()


def layout(*regions, version=2, **more):
    return json.dumps({"version": version, "regions": list(regions), **more})


def masked(mask=DISC, prompt="a <wizard>", **more):
    return {"mask": mask, "prompt": prompt, **more}


def boxed(x=0, width=512, prompt="a box", **more):
    return {"x": x, "y": 0, "width": width, "height": 512, "prompt": prompt, **more}


# ------------------------------------------------------------------------- masks


def test_runs_are_black_and_white_in_turn_row_by_row():
    assert torch.equal(read_mask(DISC, "x"), ROUND)
    assert torch.equal(
        read_mask({"size": [2, 1], "runs": [0, 1, 1]}, "x"), torch.tensor([[1.0, 0]])
    )


def test_a_mask_of_the_canvas_is_what_region_from_mask_makes_of_it():
    drawn = parse_layout(layout(masked(weight=0.5, negative="n", concept="wizard")), 512, 512)
    made = add_mask(ROUND, "a <wizard>", "n", 0.5, "wizard", Regions(512, 512))
    (one,), (other,) = drawn.regions, made.regions
    assert torch.equal(one.mask, other.mask)
    assert one.box is None
    for rows, columns in ((64, 64), (16, 8), (3, 5)):
        assert torch.equal(one.weights(rows, columns), other.weights(rows, columns))
    assert (one.prompt, one.negative, one.concept) == (other.prompt, other.negative, "wizard")


@pytest.mark.parametrize("size", [(512, 512), (1024, 576), (520, 344), (4104, 64), (64, 2048)])
def test_a_mask_that_is_written_and_read_is_the_same_mask(size):
    columns, rows = grid_of(*size)
    assert max(columns, rows) <= 257
    mask = (torch.rand(rows, columns, generator=torch.Generator().manual_seed(4)) > 0.5).float()
    text = format_layout(add_mask(mask, "noise", before=Regions(*size)))
    drawn = parse_layout(text, *size)
    assert torch.equal(drawn.regions[0].mask, mask)
    assert drawn.notes == ()
    assert format_layout(drawn) == text


def test_a_finer_mask_is_written_on_the_grid_of_the_editor_and_a_soft_one_from_half_its_height():
    fine = torch.zeros(512, 512)
    fine[128:256, 64:192] = 0.6
    entry = write_mask(fine, 512, 512)
    assert entry["size"] == [128, 128]
    expected = torch.zeros(128, 128)
    expected[32:64, 16:48] = 1
    assert torch.equal(read_mask(entry, "x"), expected)


def test_the_sides_of_a_written_mask_are_the_box_around_it():
    mask = torch.zeros(64, 64)
    mask[8:16, 4:12] = 1
    (entry,) = json.loads(format_layout(add_mask(mask, "x", before=Regions(512, 256))))["regions"]
    assert [entry[key] for key in ("x", "y", "width", "height")] == [32, 32, 64, 32]


def test_a_mask_of_another_shape_is_stretched_and_says_so():
    drawn = parse_layout(layout(masked()), 512, 256)
    assert "a <wizard>" in drawn.notes[0]
    assert "4 x 4 cells" in drawn.notes[0]
    assert "512 x 256" in drawn.notes[0]
    scaled = parse_layout(layout(masked(), canvas=[256, 256]), 512, 512)
    assert scaled.notes == ("The layout was drawn on 256 x 256 pixels and scaled to 512 x 512.",)
    assert torch.equal(scaled.regions[0].mask, ROUND)


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        ({"size": [4, 4], "runs": [16]}, ["is empty", "Paint"]),
        ({"size": [4, 4], "runs": [8, 4]}, ["12 cells in all", "4 x 4 has 16"]),
        ({"size": [4, 0], "runs": []}, ["size [4, 0]"]),
        ({"size": [4], "runs": []}, ["size [4]"]),
        ({"size": [4, 4], "runs": [8, -1, 9]}, ["no list of runs"]),
        ({"size": [4, 4], "runs": [True] * 16}, ["no list of runs"]),
        ({"size": [4, 4]}, ["no list of runs"]),
        ({"size": [100000, 100000], "runs": [10**10]}, ["coarser grid"]),
        ("1010", ["no object"]),
    ],
)
def test_a_mask_that_cannot_be_used_is_named_by_its_prompt(mask, words):
    with pytest.raises(RegionError) as error:
        parse_layout(layout(masked(mask)), 512, 512)
    assert [word for word in ["a <wizard>", *words] if word not in str(error.value)] == []


# ------------------------------------------------------------------------- the other values


def test_values_of_version_2_are_read_and_written():
    text = layout(boxed(depth=2, strength=0.5, reference="wizard.png", locked=True, color=3))
    (region,) = parse_layout(text, 512, 512).regions
    assert (region.depth, region.strength, region.reference) == (2, 0.5, "wizard.png")
    again = parse_layout(format_layout(Regions(512, 512, (region,))), 512, 512).regions[0]
    assert (again.depth, again.strength, again.reference) == (2, 0.5, "wizard.png")
    (plain,) = parse_layout(layout(boxed(), version=1), 512, 512).regions
    assert (plain.depth, plain.strength, plain.reference) == (None, 1.0, None)


def test_a_hidden_region_is_left_out_whatever_it_is_and_said():
    drawn = parse_layout(layout(boxed(prompt="a ghost", width=0, hidden=True), boxed()), 512, 512)
    assert [region.prompt for region in drawn.regions] == ["a box"]
    assert drawn.notes == ("The region 'a ghost' is hidden and was left out.",)
    assert len(parse_layout(layout(boxed(hidden=False)), 512, 512).regions) == 1


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"strength": -1}, ["strength -1", "0 or more"]),
        ({"strength": "much"}, ["number as its strength"]),
        ({"depth": "front"}, ["number as its depth"]),
        ({"reference": 4}, ["text as its reference"]),
    ],
)
def test_a_wrong_value_is_named(value, words):
    with pytest.raises(RegionError) as error:
        parse_layout(layout(boxed(**value)), 512, 512)
    assert [word for word in ["a box", *words] if word not in str(error.value)] == []


# ------------------------------------------------------------------------- depth


def regions(*given):
    return Regions(512, 512, given).regions


def test_without_depth_and_on_one_depth_regions_that_overlap_share_as_ever():
    plain = regions(Region("a", box=WHOLE), Region("b", box=LEFT, weight=0.5))
    same = regions(Region("a", box=WHOLE, depth=3), Region("b", box=LEFT, weight=0.5, depth=3))
    assert torch.equal(shares(plain, 4, 4), shares(same, 4, 4))
    assert plain[0].in_front == ()


def test_the_region_in_front_takes_the_cells():
    part = shares(regions(Region("front", box=MIDDLE, depth=1), Region("behind", box=WHOLE)), 1, 4)
    assert part[:, 0].tolist() == [[0, 1, 1, 0], [1, 0, 0, 1]]


def test_half_a_weight_in_front_leaves_the_other_half():
    behind, front = Region("b", box=WHOLE), Region("f", box=LEFT, weight=0.5, depth=1)
    assert shares(regions(behind, front), 1, 2)[:, 0].tolist() == [[0.5, 1], [0.5, 0]]
    nothing = Region("f", box=LEFT, weight=0.0, depth=1)
    assert shares(regions(behind, nothing), 1, 2)[:, 0].tolist() == [[1, 1], [0, 0]]


def test_three_depths_and_a_soft_mask_add_up_to_the_cell():
    soft = torch.tensor([[0.25, 1.0]])
    found = shares(
        regions(
            Region("back", box=WHOLE, depth=-1),
            Region("soft", mask=soft, depth=2),
            Region("half", box=WHOLE, weight=0.5),
        ),
        1,
        2,
    )[:, 0]
    expected = [[0.75 * 0.5, 0], [0.25, 1], [0.75 * 0.5, 0]]
    torch.testing.assert_close(found, torch.tensor(expected))


def test_guidance_and_isolation_see_the_cells_that_are_left():
    drawn = regions(Region("front", box=LEFT, depth=1), Region("behind", box=WHOLE))
    cells = region_cells(drawn[1], 2, 4)
    assert cells.queries.tolist() == [2, 3, 6, 7]
    groups = {
        tuple(sorted(key)): value.tolist()
        for key, value in signatures(cell_members(drawn, 1, 4)).items()
    }
    assert groups == {(0,): [0, 1], (1,): [2, 3]}


def test_depth_counts_between_layouts_and_is_forgotten_with_its_region():
    behind = Regions(512, 512, (Region("behind", box=WHOLE),))
    both = parse_layout(layout(boxed(0, 256, depth=1)), 512, 512).after(behind)
    assert shares(both.regions, 1, 2)[:, 0].tolist() == [[0, 1], [1, 0]]
    assert Regions(512, 512, both.regions[:1]).regions[0].in_front == ()
    assert behind.regions[0].in_front == ()


def test_a_region_wholly_behind_others_is_named():
    drawn = parse_layout(layout(boxed(0, 256, "a ghost"), boxed(0, 300, depth=1)), 512, 512)
    (note,) = drawn.notes
    assert "'a ghost'" in note
    assert "wholly behind" in note


# ------------------------------------------------------------------------- strength, the picture


def test_a_strength_multiplies_the_concepts_share_of_its_region():
    concept = Bound(None, {}, {})

    def part(strength):
        both = Region("a", box=LEFT), Region("b", box=RIGHT, strength=strength)
        drawn = [Drawn(region, RegionText(None, None), concept) for region in both]
        return Injection("full", drawn).shares(1, 4).tolist()

    assert part(0.25) == [[1, 1, 0.25, 0.25]]
    assert part(1.0) == [[1, 1, 1, 1]]


def test_a_background_keeps_its_shape():
    white = torch.ones(1, 32, 64, 3)
    picture = draw_regions(Regions(64, 64), white)[0, ..., 0]
    assert picture[16:48].eq(1).all()
    torch.testing.assert_close(picture[:16], torch.full((16, 64), PAPER), atol=1 / 255, rtol=0)
    assert torch.equal(picture[48:], picture[:16])


def test_the_picture_shows_who_is_in_front():
    front, behind = Region("", box=LEFT, depth=1, color=0), Region("", box=WHOLE, color=1)
    alone = draw_regions(Regions(64, 64, (front,)))
    both = draw_regions(Regions(64, 64, (front, behind)))
    torch.testing.assert_close(both[0, 60, 10], alone[0, 60, 10], atol=1 / 255, rtol=0)
    assert (both[0, 60, 50] - alone[0, 60, 50]).abs().max() > 0.05
