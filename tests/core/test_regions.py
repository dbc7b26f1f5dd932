"""Regions: boxes on feature maps, layouts as JSON, regions from masks, colours and boxes."""

import json

import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.regions.from_boxes import add_boxes
from mix_of_show.mos_core.regions.from_masks import add_mask
from mix_of_show.mos_core.regions.layout_json import (
    EMPTY_LAYOUT,
    FINEST_CELL,
    format_layout,
    parse_layout,
)
from mix_of_show.mos_core.regions.picture import PALETTE, draw_regions
from mix_of_show.mos_core.regions.region import Box, Region, Regions, shares


def entry(x=0, y=0, width=256, height=256, prompt="a <wizard>", **more):
    return {"x": x, "y": y, "width": width, "height": height, "prompt": prompt, **more}


def layout(*regions, **more):
    return json.dumps({"version": 1, "regions": list(regions), **more})


def cells(region, size=512):
    """The cells of the finest map that the region has, as (left, top, right, bottom)."""
    down, across = region.box.cells(size // FINEST_CELL, size // FINEST_CELL)
    return across.start, down.start, across.stop, down.stop


# ------------------------------------------------------------------------- cells and shares


def test_a_box_has_the_cells_that_lie_wholly_inside():
    box = Box(0.1, 0.1, 0.9, 0.5)  # on 8 x 8: columns 0.8 to 7.2, rows 0.8 to 4
    assert box.cells(8, 8) == (slice(1, 4), slice(1, 7))


@pytest.mark.parametrize("cell", [8, 16, 32, 64])
def test_an_edge_on_the_grid_is_the_edge_of_a_cell_on_every_canvas(cell):
    """In floating point 15 * 8 / 176 * 22 is above 15: without care the box would lose a cell."""
    for size in range(64, 2049, cell):
        if size % cell:
            continue
        columns = size // cell
        for at in range(columns):
            box = Box(at * cell / size, 0.0, (at + 1) * cell / size, 1.0)
            assert box.cells(1, columns)[1] == slice(at, at + 1), (size, at)


def test_shares_of_a_cell_add_up_to_at_most_one_and_a_lone_region_keeps_its_weight():
    left = Region("left", weight=1.0, box=Box(0, 0, 0.75, 1))
    right = Region("right", weight=0.5, box=Box(0.5, 0, 1, 1))
    share = shares([left, right], 1, 4)[:, 0]
    expected = [[1, 1, 1 / 1.5, 0], [0, 0, 0.5 / 1.5, 0.5]]
    torch.testing.assert_close(share, torch.tensor(expected))


# ------------------------------------------------------------------------- layouts


def test_a_layout_is_read_as_fractions_of_its_canvas():
    text = layout(entry(128, 64, 256, 128, negative="blurry", weight=0.5, concept="wizard"))
    (region,) = parse_layout(text, 512, 256).regions
    assert region.box == Box(0.25, 0.25, 0.75, 0.75)
    assert (region.prompt, region.negative) == ("a <wizard>", "blurry")
    assert (region.weight, region.concept) == (0.5, "wizard")


def test_what_is_not_said_of_a_region_has_the_values_of_the_interface():
    (region,) = parse_layout(
        layout({"x": 0, "y": 0, "width": 64, "height": 64, "concept": None}), 64, 64
    ).regions
    assert (region.prompt, region.negative, region.weight, region.concept) == ("", "", 1.0, None)


def test_a_layout_written_and_read_is_the_same_layout():
    text = layout(
        entry(8, 16, 100, 203, "first", weight=0.3, color=4),
        entry(300, 1, 212, 511, "second", negative="dark", concept="zebra"),
        canvas=[517, 512],
    )
    regions = parse_layout(text, 517, 512)
    written = format_layout(regions)
    assert parse_layout(written, 517, 512).regions[0].box == regions.regions[0].box
    assert format_layout(parse_layout(written, 517, 512)) == written
    assert json.loads(written)["regions"][1] == {
        **entry(300, 1, 212, 511, "second", negative="dark", concept="zebra"),
        "weight": 1.0,
    }


@pytest.mark.parametrize("text", ["", "  \n", EMPTY_LAYOUT])
def test_an_empty_layout_has_no_regions(text):
    assert parse_layout(text, 512, 512).regions == ()


def test_a_hundred_regions_are_read():
    boxes = [entry(48 * (i % 10), 48 * (i // 10), 48, 48, f"thing {i}") for i in range(100)]
    regions = parse_layout(layout(*boxes), 512, 512)
    assert [region.prompt for region in regions.regions] == [f"thing {i}" for i in range(100)]
    assert shares(regions.regions, 64, 64).shape == (100, 64, 64)


def test_keys_of_a_later_pack_are_left_alone():
    (region,) = parse_layout(layout(entry(rotation=45), theme="dark"), 512, 512).regions
    assert region.prompt == "a <wizard>"


def test_a_layout_drawn_on_another_canvas_is_scaled_and_says_so():
    drawn = parse_layout(layout(entry(64, 64, 128, 64), canvas=[256, 256]), 512, 256)
    assert drawn.regions[0].box == Box(0.25, 0.25, 0.75, 0.5)
    assert "256 x 256" in drawn.notes[0]
    assert "512 x 256" in drawn.notes[0]


def test_a_box_over_the_edge_is_clipped_with_a_note_that_names_it():
    drawn = parse_layout(layout(entry(-100, 400, 200, 200, "a long tail")), 512, 512)
    assert drawn.regions[0].box == Box(0, 400 / 512, 100 / 512, 1)
    (note,) = drawn.notes
    assert "a long tail" in note
    assert "x 0 to 100, y 400 to 512" in note


@pytest.mark.parametrize(
    ("region", "words"),
    [
        (entry(width=0, prompt="a thin line"), ["a thin line", "0 x 256", "above 0"]),
        (entry(height=-8, prompt="upside down"), ["upside down", "256 x -8"]),
        (entry(x=512, prompt="the right one"), ["the right one", "outside", "512 x 512"]),
        (entry(y=-256, prompt="the upper one"), ["the upper one", "outside"]),
        (entry(3, 3, 10, 10, "a crumb"), ["a crumb", "10 x 10", "too small", "16 x 16"]),
        (entry(508, 0, 100, 64, "a rest"), ["a rest", "4 x 64", "too small"]),
        (entry(weight=-1), ["a <wizard>", "-1", "0 or more"]),
        (entry(weight="much"), ["a <wizard>", "weight", "'much'"]),
        (entry(x=None), ["a <wizard>", "number as its x", "None"]),
        (entry(y=float("nan")), ["a <wizard>", "number as its y"]),
        ({"x": 0, "y": 0, "width": 9, "prompt": "half a box"}, ["half a box", "height", "missing"]),
        (entry(prompt=7), ["text as its prompt", "7"]),
        (entry(prompt="", width=0), ["1 (without a prompt)", "above 0"]),
        ("a box", ["Region 1", "'a box'"]),
    ],
)
def test_a_region_that_cannot_be_used_is_named_by_its_prompt(region, words):
    with pytest.raises(RegionError) as error:
        parse_layout(layout(region), 512, 512)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_box_of_one_cell_on_the_grid_is_large_enough():
    (region,) = parse_layout(layout(entry(504, 8, 8, 8)), 512, 512).regions
    assert cells(region) == (63, 1, 64, 2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", ["cannot be read", "JSON", '"regions"']),
        ("[]", ["no list of regions"]),
        ('{"version": 1, "regions": {}}', ["no list of regions"]),
        ('{"regions": []}', ["version is None"]),
        ('{"version": "1", "regions": []}', ["version is '1'"]),
        ('{"version": 3, "regions": []}', ["version 3", "versions up to 2", "Update"]),
        ('{"version": 1, "canvas": [0, 512], "regions": []}', ["canvas is [0, 512]"]),
    ],
)
def test_a_text_that_is_no_layout_says_what_is_wrong(text, words):
    with pytest.raises(RegionError) as error:
        parse_layout(text, 512, 512)
    assert [word for word in words if word not in str(error.value)] == []


def test_a_canvas_without_size_is_refused():
    with pytest.raises(RegionError, match="0 x 512"):
        parse_layout(EMPTY_LAYOUT, 0, 512)


def test_regions_of_two_layouts_stand_one_after_the_other():
    first = parse_layout(layout(entry(prompt="first")), 512, 512)
    second = parse_layout(layout(entry(prompt="second")), 768, 768)
    both = second.after(first)
    assert [region.prompt for region in both.regions] == ["first", "second"]
    assert (both.width, both.height, both.notes) == (768, 768, ())
    wide = parse_layout(EMPTY_LAYOUT, 768, 512).after(first)
    assert "512 x 512" in wide.notes[0]
    assert second.after(None) is second


# ------------------------------------------------------------------------- boxes of other nodes


ONE = {"x": 0, "y": 0, "width": 256, "height": 512, "label": "person", "score": 0.9}
TWO = {"x": 256, "y": 0, "width": 256, "height": 512, "label": "dog"}


@pytest.mark.parametrize("boxes", [[ONE, TWO], [[ONE, TWO]], json.dumps([[ONE, TWO]])])
def test_boxes_come_as_a_list_for_each_picture_or_as_json(boxes):
    regions = add_boxes(boxes, "a wizard\na zebra", 512, 512)
    assert [region.prompt for region in regions.regions] == ["a wizard", "a zebra"]
    assert regions.regions[1].box == Box(0.5, 0, 1, 1)
    assert regions.notes == ()


def test_a_single_box_is_a_region():
    assert add_boxes(ONE, "a wizard", 512, 512).regions[0].box == Box(0, 0, 0.5, 1)


def test_without_prompts_the_labels_of_the_boxes_count():
    assert [r.prompt for r in add_boxes([ONE, TWO], "", 512, 512).regions] == ["person", "dog"]


def test_boxes_without_a_prompt_are_left_out_with_a_note():
    regions = add_boxes([[ONE, TWO], [ONE]], "a wizard", 512, 512)
    assert len(regions.regions) == 1
    assert "2 pictures" in regions.notes[0]
    assert "1 of 2 boxes" in regions.notes[1]


@pytest.mark.parametrize(
    ("boxes", "prompts", "words"),
    [
        ("[", "a", ["cannot be read"]),
        ([1, 2], "a", ["no bounding boxes", "[1, 2]"]),
        ([ONE], "a\nb", ["2 prompts", "1 boxes"]),
        ([{**ONE, "width": 0}], "a cat", ["a cat", "above 0"]),
        ([{**ONE, "x": "left"}], "a cat", ["a cat", "number as its x"]),
    ],
)
def test_boxes_that_cannot_be_used_say_what_is_wrong(boxes, prompts, words):
    with pytest.raises(RegionError) as error:
        add_boxes(boxes, prompts, 512, 512)
    assert [word for word in words if word not in str(error.value)] == []


# ------------------------------------------------------------------------- the picture


def test_the_picture_is_as_large_as_the_canvas_and_shows_each_region_in_its_colour():
    regions = parse_layout(
        layout(entry(0, 0, 100, 160, "", color=2), entry(200, 40, 120, 120, "")), 320, 160
    )
    picture = draw_regions(regions)
    assert picture.shape == (1, 160, 320, 3)
    assert picture.min() >= 0
    assert picture.max() <= 1
    for color, (row, column) in ((PALETTE[2], (80, 1)), (PALETTE[-2], (100, 201))):
        rgb = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        torch.testing.assert_close(picture[0, row, column], torch.tensor(rgb))


def test_a_background_shows_where_no_region_is():
    gradient = torch.linspace(0, 1, 64)[None, None, :, None].expand(1, 64, 64, 3)
    regions = add_mask(torch.eye(64), "a line")
    plain = draw_regions(Regions(64, 64), gradient)
    drawn = draw_regions(regions, gradient)
    torch.testing.assert_close(plain, gradient, atol=1 / 255, rtol=0)
    assert torch.equal(drawn[0, 60, :20], plain[0, 60, :20])
