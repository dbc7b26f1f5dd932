"""Regions handed to other packs and taken from them: masks, boxes, SEGS, poses."""

from collections import namedtuple

import numpy as np
import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.regions.from_boxes import add_boxes
from mix_of_show.mos_core.regions.from_mask_batch import add_masks
from mix_of_show.mos_core.regions.from_poses import add_poses
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.mos_core.regions.segs import add_segs, write_segs
from mix_of_show.mos_core.regions.soften import feather, grow
from mix_of_show.mos_core.regions.to_masks import (
    bounds_of,
    crop_regions,
    label_of,
    region_boxes,
    region_masks,
    widen,
)

FIELDS = "cropped_image cropped_mask confidence crop_region bbox label control_net_wrapper"
SEG = namedtuple("SEG", FIELDS.split(), defaults=[None])  # as another pack defines it
DISC = torch.zeros(64, 128)
DISC[16:48, 80:112] = 1.0


def two(depth=None):
    return Regions(
        128,
        64,
        (
            Region("a cat", box=Box(0.25, 0, 0.75, 0.5), depth=depth),
            Region("a <wizard>", mask=DISC, concept="wizard"),
        ),
    )


def seg(label="face", box=(10, 20, 30, 50), crop=(0, 10, 40, 60), mask=True):
    part = np.zeros((crop[3] - crop[1], crop[2] - crop[0]), np.float32) if crop else None
    if part is not None and box:
        part[box[1] - crop[1] : box[3] - crop[1], box[0] - crop[0] : box[2] - crop[0]] = 1
    return SEG(None, part if mask else None, 0.9, crop, box, label)


# ------------------------------------------------------------------------- handed on


def test_masks_are_the_regions_in_order_at_the_asked_size():
    masks = region_masks(two(), 128, 64)
    assert masks.shape == (2, 64, 128)
    assert masks[0].sum() == 64 * 32
    assert torch.equal(masks[1], DISC)
    assert region_masks(two(), 64, 32)[0].sum() == 32 * 16


def test_what_a_region_in_front_takes_is_missing_behind_it():
    alone, behind = region_masks(two(), 128, 64)[1], region_masks(two(depth=1), 128, 64)[1]
    assert behind.sum() == alone.sum() - 16 * 16


def test_boxes_are_read_back_as_the_same_regions():
    boxes = region_boxes(two(), region_masks(two(), 128, 64))
    assert boxes[1] == {"x": 80, "y": 16, "width": 32, "height": 32, "label": "wizard"}
    again = add_boxes(boxes, "", 128, 64)
    assert [region.prompt for region in again.regions] == ["a cat", "wizard"]
    assert again.regions[0].box == Box(0.25, 0, 0.75, 0.5)


def test_a_region_without_a_pixel_keeps_its_place_among_the_boxes():
    boxes = region_boxes(two(), torch.zeros(2, 64, 128))
    assert [box["width"] for box in boxes] == [0, 0]


def test_segs_are_read_back_as_the_same_masks():
    masks = region_masks(two(), 128, 64)
    size, segs = write_segs(two(), masks, crop_factor=1.5)
    assert size == (64, 128)
    assert segs[1].crop_region == (72, 8, 120, 56)
    assert segs[1].cropped_mask.shape == (48, 48)
    assert [s.label for s in segs] == ["a cat", "wizard"]
    again = add_segs((size, segs), "")
    for region, mask in zip(again.regions, masks, strict=True):
        assert torch.equal(region.mask, mask)


def test_a_crop_holds_the_region_in_the_middle_of_a_square():
    picture = torch.zeros(1, 64, 128, 3)
    picture[0, 16:48, 80:112] = torch.tensor([1.0, 0, 0])
    crops = crop_regions(picture, DISC[None], factor=1.0, side=16)
    assert crops.shape == (1, 16, 16, 3)
    torch.testing.assert_close(crops[0, 8, 8], torch.tensor([1.0, 0, 0]))


def test_labels_are_concepts_then_prompts():
    assert [label_of(region) for region in two().regions] == ["a cat", "wizard"]


def test_boxes_are_widened_inside_the_picture():
    assert widen((0, 10, 20, 30), 2, 100, 35) == (0, 0, 30, 35)
    assert bounds_of(torch.zeros(4, 4)) is None


# ------------------------------------------------------------------------- edges


def test_growing_and_shrinking_move_the_edge_by_whole_pixels():
    assert bounds_of(grow(DISC[None], 3)[0]) == (77, 13, 115, 51)
    assert bounds_of(grow(DISC[None], -3)[0]) == (83, 19, 109, 45)
    assert grow(DISC[None], 0) is not None


def test_a_feathered_edge_is_half_where_the_edge_was_and_flat_away_from_it():
    soft = feather(DISC[None], 4)[0]
    assert soft[32, 79] + soft[32, 80] == pytest.approx(1, abs=1e-3)
    assert soft[32, 96] == pytest.approx(1, abs=1e-4)
    assert soft[32, 40] == 0
    whole = torch.ones(1, 8, 8)
    torch.testing.assert_close(feather(whole, 4), whole)  # the picture's border is no edge


# ------------------------------------------------------------------------- SEGS


def test_segments_become_regions_with_the_lines_from_left_to_right():
    far = seg("b", (80, 0, 100, 20), (70, 0, 110, 40))
    regions = add_segs(((64, 128), [far, seg()]), "a cat\na dog", "boxes", "left to right")
    assert (regions.width, regions.height) == (128, 64)
    assert [(r.prompt, r.box.x0) for r in regions.regions] == [
        ("a cat", 10 / 128),
        ("a dog", 80 / 128),
    ]


def test_segments_without_a_line_are_left_out_with_a_note():
    regions = add_segs(((64, 128), [seg(), seg()]), "a cat")
    assert len(regions.regions) == 1
    assert "1 of 2 segments have no prompt" in regions.notes[0]


def test_a_segment_without_a_box_uses_its_crop_and_without_either_is_named():
    regions = add_segs(((64, 128), [seg(box=None, mask=False)]), "a cat", "boxes")
    assert regions.regions[0].box.x1 == 40 / 128
    with pytest.raises(RegionError, match=r"Segment 1 \(face\) has no box"):
        add_segs(((64, 128), [seg(box=None, crop=None, mask=False)]), "a cat", "boxes")


def test_a_mask_of_another_size_than_its_crop_is_refused():
    wrong = seg()._replace(cropped_mask=np.ones((3, 4), np.float32))
    with pytest.raises(RegionError, match=r"shape \(3, 4\), its crop .* 40 wide and 50 high"):
        add_segs(((64, 128), [wrong]), "a cat")


def test_empty_segs_add_nothing_and_say_so():
    regions = add_segs(((64, 128), []), "", before=two())
    assert len(regions.regions) == 2
    assert "There are no segments" in regions.notes[0]
    with pytest.raises(RegionError, match="1 prompts, but 0 segments"):
        add_segs(((64, 128), []), "a cat")


@pytest.mark.parametrize("segs", [None, 3, "text", ((1, 2, 3), []), ((64, 128), None)])
def test_what_is_no_segs_is_refused(segs):
    with pytest.raises(RegionError, match="no SEGS"):
        add_segs(segs, "a cat")


# ------------------------------------------------------------------------- mask batches


def test_masks_become_regions_the_largest_first():
    large = torch.zeros(64, 128)
    large[:, :60] = 1
    regions = add_masks(torch.stack([DISC, large]), "a cat\na dog", "largest first")
    assert torch.equal(regions.regions[0].mask, large)


def test_masks_of_another_shape_are_stretched_and_it_is_said():
    regions = add_masks(torch.ones(1, 32, 32), "a cat", before=two())
    assert (regions.width, regions.height) == (128, 64)
    assert "stretched to the canvas of 128 x 64" in regions.notes[0]
    larger = add_masks(torch.ones(1, 128, 256), "a cat", before=two())
    assert "256 x 128 pixels and were scaled to the canvas of 128 x 64" in larger.notes[0]


def test_empty_and_broken_masks_are_left_out():
    nan = torch.full_like(DISC, float("nan"))
    regions = add_masks(torch.stack([DISC * 0, nan, DISC]), "a cat")
    assert torch.equal(regions.regions[0].mask, DISC)
    assert "2 of 3 masks are empty" in regions.notes[0]


def test_masks_need_prompts():
    with pytest.raises(RegionError, match="3 masks, but no prompts"):
        add_masks(torch.ones(3, 8, 8), " ")


# ------------------------------------------------------------------------- poses


def pose(*people, width=200, height=100):
    return [{"people": [*people], "canvas_width": width, "canvas_height": height}]


def person(*points):
    return {"pose_keypoints_2d": [value for x, y in points for value in (x, y, 1.0)]}


def test_a_person_is_the_box_around_its_keypoints_and_a_margin():
    regions = add_poses(pose(person((50, 20), (70, 60))), "a cat", margin=0.25)
    box = regions.regions[0].box
    ends = (box.x0 * 200, box.y0 * 100, box.x1 * 200, box.y1 * 100)
    assert ends == pytest.approx((40, 10, 80, 70))


def test_keypoints_may_be_fractions_and_persons_come_from_left_to_right():
    poses = pose(person((0.8, 0.2), (0.9, 0.6)), person((0.1, 0.2), (0.2, 0.6)))
    regions = add_poses(poses, "a cat\na dog", margin=0)
    assert [r.box.x0 for r in regions.regions] == pytest.approx([0.1, 0.8])


def test_keypoints_that_were_not_seen_do_not_count():
    one = person((50, 20), (70, 60))
    one["pose_keypoints_2d"] += [0, 0, 0, 190, 90, 0]
    regions = add_poses(pose(one, {"pose_keypoints_2d": None}), "", margin=0)
    assert regions.regions[0].box.x1 == 70 / 200
    assert regions.regions[0].prompt == "person"
    assert "1 poses lie outside" in regions.notes[-1]


def test_a_pose_from_the_side_still_has_a_width():
    box = add_poses(pose(person((50, 20), (50, 60))), "a cat", margin=0).regions[0].box
    assert box.x1 - box.x0 == pytest.approx(0.05)


@pytest.mark.parametrize("poses", [None, [], "not json", [{"canvas_width": 1}], {"people": []}])
def test_what_is_no_pose_is_refused(poses):
    with pytest.raises(RegionError, match="poses"):
        add_poses(poses, "a cat")
