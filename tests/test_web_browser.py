"""The region editor in a real browser, against a real server, in both renderers."""

import re

import pytest

from support.browser import RENDERERS, look

WIZARD, ZEBRA, TAXI = [16, 48, 136, 416], [184, 152, 136, 336], [352, 24, 136, 280]
MOVED = [200, 96, 136, 336]


@pytest.fixture(scope="module", params=RENDERERS)
def seen(request):
    """What the script saw in one renderer."""
    return look("browser.mjs", request, request.param)


def prompts(regions):
    return [region["prompt"] for region in regions]


def test_the_page_has_no_error(seen):
    assert seen["errors"] == []


def test_boxes_are_drawn_on_the_grid_and_named(seen):
    drawn = seen["drawn"]
    assert [[r["x"], r["y"], r["width"], r["height"]] for r in drawn] == [WIZARD, ZEBRA, TAXI]
    assert [re.search("<.*>", prompt)[0] for prompt in prompts(drawn)] == [
        "<wizard>",
        "<zebra>",
        "<taxi>",
    ]


def test_a_box_is_moved_and_resized_and_each_drag_is_taken_back_alone(seen):
    assert seen["moved"] == [WIZARD, MOVED, TAXI]
    assert seen["resized"] == [WIZARD, [200, 96, 152, 288], TAXI]
    assert seen["undone"] == seen["moved"]
    assert seen["redone"] == seen["resized"]


def test_keys_act_on_the_box_and_not_on_the_graph(seen):
    assert seen["arrows"] == [WIZARD, [208, 96, 136, 344], TAXI]
    assert (seen["duplicated"], seen["deleted"]) == (4, 3)
    assert seen["keysUndone"] == [WIZARD, MOVED, TAXI]
    assert (seen["nodes"], seen["nodesAfterUndo"], seen["nodesAfterCopy"]) == (2, 2, 2)
    assert seen["boxesAfterCopy"] == 4


def test_alt_leaves_the_grid_and_escape_gives_up_a_drag(seen):
    assert seen["free"] == [pytest.approx(211, abs=2), pytest.approx(85, abs=2), 136, 336]
    assert any(value % 8 for value in seen["free"][:2])
    assert seen["escaped"] == [WIZARD, seen["free"], TAXI]


def test_pen_and_finger_draw_at_every_zoom(seen):
    for pointer in ("pen", "finger"):
        assert seen[pointer][:3] == seen["escaped"]
        assert seen[pointer][3] == [0, 440, 152, 72]
    assert seen["afterPointers"] == seen["escaped"]


def test_the_canvas_follows_width_and_height_and_comes_back(seen):
    assert seen["aspect"] == pytest.approx(1.5, abs=0.01)
    assert seen["wide"][0] == [24, 48, 204, 416]
    assert seen["narrow"] == seen["escaped"]


def test_the_layout_outlives_reload_copy_subgraph_and_prompt(seen):
    assert seen["reloaded"] is True
    assert seen["prompt"]["layout"] == seen["text"]
    assert seen["pasted"] == [2, 1, 2]  # two nodes, one text, two editors
    assert seen["subgraph"] in (None, seen["text"])


def test_the_workflow_runs(seen):
    assert seen["run"] == ["execution_success", None]


def test_a_linked_picture_shows_at_once_and_what_comes_in_after_a_run(seen):
    assert "filename=half_black.png" in seen["linkedPicture"]
    assert seen["runWithPicture"] == ["execution_success", None]
    assert "type=temp" in seen["pictureAfterRun"]


def test_a_hundred_boxes_can_be_moved(seen):
    assert seen["hundred"] == [472, 472, 40, 40]


def test_what_cannot_be_read_is_said_in_the_editor_and_by_the_run(seen):
    assert "version 9" in seen["problem"]
    assert seen["refused"][0] == "execution_error"
    assert "Update the pack" in seen["refused"][1]
