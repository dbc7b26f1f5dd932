"""The canvas of Region Layout and the graph around it, in a real browser, in both renderers of
ComfyUI's own and of the newest editor."""

import pytest

from support.browser import EVERY_EDITOR, look

SECONDS_OF_A_FRAME = 1 / 30


@pytest.fixture(scope="module", params=EVERY_EDITOR)
def seen(request):
    """What the script saw in one renderer of one editor."""
    return look("canvas_graph.mjs", request, request.param)


def test_the_page_has_no_error(seen):
    assert seen["errors"] == []


def test_the_loaded_concepts_are_offered_with_their_colours_and_tokens(seen):
    assert seen["concepts"] == ["✓From the prompt's tokens", "wizard  <wizard>", "zebra  <zebra>"]
    assert seen["swatches"] == 2
    chosen = seen["conceptChosen"]
    assert (chosen["concept"], chosen["color"]) == ("zebra", 1)
    assert chosen["prompt"] == "a photo of a <zebra>"
    assert seen["conceptUndone"] == ""
    assert (seen["second"]["concept"], seen["second"]["prompt"]) == ("wizard", "a cat <wizard>")


def test_ordinary_loras_are_offered_by_the_names_and_words_of_their_loaders(seen):
    assert seen["loras"] == [
        "✓From the prompt's tokens",
        "polarbear_lora  bear",
        "Sir  knight  sword",
    ]
    chosen, marks = seen["loraChosen"]
    assert (chosen["concept"], chosen["prompt"]) == ("Sir", "a cat knight, sword")
    assert marks == 0


def test_a_region_that_names_no_loaded_concept_is_marked(seen):
    count, status = seen["marked"]
    assert count == 1
    assert "Region 2 names none of the loaded concepts" in status
    assert seen["unmarked"] == 0


def test_two_concepts_on_one_place_are_said_until_one_is_in_front(seen):
    status, hatched = seen["clash"]
    assert "Regions 1 and 2 overlap" in status
    assert hatched == 2
    status, hatched = seen["noClash"]
    assert "overlap" not in status
    assert hatched == 0


def test_regions_are_copied_into_another_node_and_the_graph_keeps_its_nodes(seen):
    first, second = seen["pasted"]
    assert [first[side] for side in ("x", "y", "width", "height")] == [0, 0, 512, 512]
    assert (first["prompt"], first["concept"], first["color"]) == ("a <wizard>", "wizard", 3)
    assert second["x"] != first["x"]
    assert seen["nodesAfterPaste"] == 2
    assert seen["cut"] == 1


def test_the_last_picture_lies_behind_in_its_own_shape(seen):
    assert seen["run"] == ["execution_success", None]
    address, fit, width = seen["lastPicture"]
    assert "type=temp" in address
    assert (fit, width) == ("contain", 96)
    assert seen["noPicture"] is None
    assert seen["pictureKept"] is False
    assert seen["pictureAgain"] is True


def test_a_hidden_region_is_said_to_be_left_out(seen):
    assert "'seen' is hidden" in seen["notes"]


def test_width_and_height_lead_the_latent(seen):
    assert seen["sizeRun"] == ["execution_success", None]
    assert seen["sizeOfPicture"] == [256, 128]


def test_regions_that_come_in_can_be_edited(seen):
    assert seen["taken"] == [["from a mask", 256, 128, True]]
    assert seen["takenLink"] is None


def test_two_fingers_come_closer_and_one_that_rests_opens_the_menu(seen):
    assert seen["pinch"] == pytest.approx(1, abs=0.1)
    assert seen["afterPinch"] == [[100, 100, 300, 300]]
    assert seen["longPress"] == 1


@pytest.mark.parametrize("name", ["drag", "dragListed"])
def test_thirty_regions_stay_fluid(seen, name):
    assert seen[f"{name}Moved"] == pytest.approx([288, 108, 72, 88], abs=8)
    assert seen[name]["median"] < 1000 * SECONDS_OF_A_FRAME
