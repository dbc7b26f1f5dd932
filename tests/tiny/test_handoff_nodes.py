"""The nodes that hand regions to other packs and back, as ComfyUI calls them."""

import pytest
import torch

from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes import handoff

TWO = Regions(
    128,
    64,
    (Region("a cat", box=Box(0, 0, 0.5, 1)), Region("a dog", box=Box(0.5, 0, 1, 1))),
)


def test_what_is_handed_on_comes_back_by_every_way():
    masks, boxes, segs, names, preview, crops = handoff.RegionsToMasks.execute(TWO).args
    assert names.splitlines() == ["a cat", "a dog"]
    assert preview.shape == (1, 64, 128, 3)
    assert crops.shape == (2, 256, 256, 3)
    assert [box["label"] for box in boxes] == ["a cat", "a dog"]
    asked = ("a cat\na dog", "as they come", "", 1.0)
    by_masks = handoff.RegionsFromMasks.execute(masks, *asked).args[0]
    by_segs = handoff.RegionsFromSegs.execute(segs, asked[0], "masks", *asked[1:]).args[0]
    for regions in (by_masks, by_segs):
        assert (regions.width, regions.height) == (128, 64)
        for region, own in zip(regions.regions, TWO.regions, strict=True):
            assert region.prompt == own.prompt
            assert torch.equal(region.weights(8, 16), own.weights(8, 16))


def test_with_a_picture_masks_and_boxes_have_its_size():
    picture = torch.rand(1, 128, 256, 3)
    masks, boxes, segs, *_ = handoff.RegionsToMasks.execute(TWO, image=picture).args
    assert masks.shape == (2, 128, 256)
    assert boxes[1]["x"] == 128
    assert segs[0] == (128, 256)


def test_without_regions_there_is_one_black_mask():
    masks, boxes, segs, names, *_ = handoff.RegionsToMasks.execute(Regions(64, 32)).args
    assert masks.shape == (1, 32, 64)
    assert masks.max() == 0
    assert (boxes, segs[1], names) == ([], [], "")


def test_poses_take_keypoints_and_text():
    info = handoff.RegionsFromPoses.GET_NODE_INFO_V1()
    assert info["input"]["required"]["poses"][0] == "POSE_KEYPOINT,STRING"
    text = '{"people": [{"pose_keypoints_2d": [8, 8, 1, 24, 56, 1]}], "canvas_width": 64, '
    text += '"canvas_height": 64}'
    output = handoff.RegionsFromPoses.execute(text, "a cat", 0.0, "as they come", "", 1.0, TWO)
    assert [r.prompt for r in output.args[0].regions] == ["a cat", "a dog", "a cat"]
    assert output.args[0].regions[2].box.x1 == pytest.approx(24 / 64)
