"""The nodes of regions, as ComfyUI calls them."""

import json

import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.nodes import regions as nodes

LAYOUT = json.dumps(
    {
        "version": 1,
        "regions": [
            {"x": 0, "y": 0, "width": 256, "height": 512, "prompt": "left"},
            {"x": 256, "y": 0, "width": 300, "height": 512, "prompt": "right"},
        ],
    }
)
MASK = torch.ones(1, 64, 64)


def prompts(output):
    return [region.prompt for region in output.args[0].regions]


def test_the_layout_node_gives_regions_a_picture_and_what_the_editor_shows():
    output = nodes.RegionLayout.execute(512, 512, LAYOUT)
    assert prompts(output) == ["left", "right"]
    assert output.args[1].shape == (1, 512, 512, 3)
    assert output.args[2:] == (512, 512)
    assert output.ui["mos_canvas"] == [512, 512]
    assert output.ui["mos_before"] == [0]
    assert "'right'" in output.ui["mos_notes"][0]
    assert "mos_background" not in output.ui
    assert "mos_incoming" not in output.ui


def test_a_layout_without_a_text_is_an_empty_one():
    assert prompts(nodes.RegionLayout.execute(512, 512)) == []


def test_regions_of_all_nodes_are_chained_in_order():
    chain = nodes.RegionFromMask.execute(MASK, "mask", "", 1.0, "").args[0]
    red = torch.tensor([1.0, 0, 0]).expand(1, 64, 64, 3)
    chain = nodes.RegionsFromColors.execute(red, "red", "black", "", 1.0, chain).args[0]
    box = [[{"x": 0, "y": 0, "width": 512, "height": 256}]]
    chain = nodes.RegionsFromBoxes.execute(box, "box", 512, 512, "", 1.0, chain).args[0]
    output = nodes.RegionLayout.execute(512, 512, LAYOUT, chain)
    assert prompts(output) == ["mask", "red", "box", "left", "right"]
    assert output.ui["mos_before"] == [3]
    (picture,) = output.ui["mos_background"]
    assert picture["type"] == "temp"
    (incoming,) = output.ui["mos_incoming"]  # to be edited on the canvas
    again = nodes.RegionLayout.execute(512, 512, incoming).args[0].regions
    for one, other in zip(again, chain.regions, strict=True):
        assert one.prompt == other.prompt
        assert torch.equal(one.weights(64, 64), other.weights(64, 64))


def test_a_concept_without_a_name_is_none():
    output = nodes.RegionFromMask.execute(MASK, "a <wizard>", "", 1.0, "  ")
    assert output.args[0].regions[0].concept is None


def test_an_error_reaches_the_user_with_the_prompt_of_the_region():
    with pytest.raises(RegionError, match="a cat"):
        nodes.RegionFromMask.execute(torch.zeros(1, 8, 8), "a cat", "", 1.0, "")


def test_boxes_take_comfyuis_own_type_and_text():
    info = nodes.RegionsFromBoxes.GET_NODE_INFO_V1()
    assert info["input"]["required"]["boxes"][0] == "BOUNDING_BOX,STRING"


def test_the_layout_is_a_widget_without_a_socket():
    kind, options = nodes.RegionLayout.GET_NODE_INFO_V1()["input"]["required"]["layout"]
    assert kind == "MOS_LAYOUT"
    assert options["socketless"] is True
    assert json.loads(options["default"]) == {"version": 1, "regions": []}
