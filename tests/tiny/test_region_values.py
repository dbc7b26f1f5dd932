"""Every node that makes regions has what a box of the canvas has."""

import pytest
import torch

from mix_of_show.nodes.handoff import RegionsFromMasks, RegionsFromPoses, RegionsFromSegs
from mix_of_show.nodes.regions import RegionFromMask, RegionsFromBoxes, RegionsFromColors

MASK = torch.ones(1, 32, 32)
BOX = '[{"x": 0, "y": 0, "width": 32, "height": 32}]'
POINTS = [8.0, 8.0, 1.0, 24.0, 24.0, 1.0]
POSES = [{"people": [{"pose_keypoints_2d": POINTS}], "canvas_width": 32, "canvas_height": 32}]


class Seg:
    cropped_mask, crop_region, bbox, label = None, (0, 0, 32, 32), (0, 0, 32, 32), "cat"


NODES = [
    (RegionFromMask, {"mask": MASK, "prompt": "x", "concept": ""}),
    (RegionsFromMasks, {"masks": MASK, "prompts": "x", "order": "as they come"}),
    (RegionsFromColors, {"image": torch.ones(1, 32, 32, 3), "prompts": "x", "background": "none"}),
    (RegionsFromBoxes, {"boxes": BOX, "prompts": "x", "width": 32, "height": 32}),
    (
        RegionsFromSegs,
        {"segs": ((32, 32), [Seg()]), "prompts": "x", "shape": "boxes", "order": "as they come"},
    ),
    (
        RegionsFromPoses,
        {"poses": POSES, "prompts": "x", "margin": 0.1, "order": "left to right"},
    ),
]


@pytest.mark.parametrize(("node", "inputs"), NODES, ids=[node.__name__ for node, _ in NODES])
def test_depth_strength_and_reference_come_last_and_reach_the_region(node, inputs):
    names = [each.id for each in node.define_schema().inputs]
    assert names[-4:] == ["regions", "depth", "strength", "reference"]
    inputs = {**inputs, "negative": "", "weight": 1.0}
    (plain,) = node.execute(**inputs).args  # as an older workflow calls it
    assert [(r.depth, r.strength, r.reference) for r in plain.regions] == [(None, 1.0, None)]
    (set_,) = node.execute(**inputs, depth=2, strength=0.5, reference="1").args
    assert [(r.depth, r.strength, r.reference) for r in set_.regions] == [(2.0, 0.5, "1")]
