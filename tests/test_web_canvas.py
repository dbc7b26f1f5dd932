"""The canvas of Region Layout in a real browser: every tool, in both renderers of ComfyUI's own and
of the newest editor."""

import pytest

from support.browser import EVERY_EDITOR, look


@pytest.fixture(scope="module", params=EVERY_EDITOR)
def seen(request):
    """What the script saw in one renderer of one editor."""
    return look("canvas.mjs", request, request.param)


def test_the_page_has_no_error(seen):
    assert seen["errors"] == []


def test_an_empty_canvas_says_what_to_do(seen):
    visible, text = seen["hint"]
    assert visible
    assert "Drag" in text
    assert not seen["hintAfter"]


def test_what_is_typed_after_drawing_is_the_prompt_of_the_one_box(seen):
    assert [region["prompt"] for region in seen["typed"]] == ["a nun in the snow"]
    assert seen["typedOn"] == "a nun in the snow at noon"
    assert seen["typedUndone"] == ["a nun in the snow"]


def test_a_double_click_leads_to_the_prompt(seen):
    assert seen["doubleClick"] == "a nun in the snow at noon"


def test_a_right_click_opens_a_menu_for_mouse_and_keys(seen):
    role, count = seen["menu"]
    assert role == "menu"
    assert count >= 15
    assert "Write the prompt" in seen["menuFocus"]
    assert "Delete" in seen["menuLast"]
    assert seen["menuClosed"] == [0, "mos-keys"]
    assert seen["menuDuplicated"] == 2
    assert seen["menuByKey"] == 1


def test_the_brush_paints_on_the_selected_region_or_a_new_one(seen):
    ((x, y, width, height, cells),) = seen["brushed"]
    assert [x, y, width, height] == pytest.approx([76, 76, 248, 48], abs=4)
    assert cells * 16 == pytest.approx(200 * 48 + 3.14 * 24**2, rel=0.05)
    assert seen["brushedOn"] == [pytest.approx([76, 76, 248, 248], abs=4)]
    assert seen["brushedNew"] == 2


def test_alt_and_the_eraser_rub_out_and_each_stroke_is_taken_back_alone(seen):
    whole = (100 * 48 + 3.14 * 24**2) / 16
    assert seen["rubbed"] == pytest.approx(whole - 48 * 48 / 16, rel=0.06)
    assert int(seen["radius"]) < 24
    assert seen["rubbedOut"] == 1
    assert seen["strokesUndone"] == pytest.approx(whole, rel=0.06)


def test_the_lasso_makes_and_cuts_a_mask_which_moves_like_a_box(seen):
    assert seen["lasso"] == pytest.approx([300, 350, 180, 130], abs=6)
    assert seen["lassoCut"] == pytest.approx([390, 350, 90, 130], abs=6)
    x, y, width, height = seen["lassoCut"]
    assert seen["maskMoved"] == pytest.approx([x - 30, y - 40, width, height], abs=6)
    assert seen["maskElements"] == 3


def test_a_box_that_is_painted_on_becomes_a_mask_and_a_box_again(seen):
    assert seen["boxPainted"] == [["x", True]]
    assert seen["boxAgain"] == [False]


def test_the_region_in_front_is_pressed_first(seen):
    assert seen["top"] == ["2"]
    assert seen["topAfter"] == [["1"], [None, -1]]
    assert seen["front"] == [0, -1]


def test_several_are_moved_aligned_and_distributed_together(seen):
    assert seen["two"] == ["1", "2"]
    first, second, third = seen["twoMoved"]
    assert [second[0] - first[0], second[1] - first[1]] == [96, 32]
    assert first[:2] == pytest.approx([40, 56], abs=8)
    assert third == [400, 300, 64, 64]
    assert [place[1] for place in seen["twoAligned"][:2]] == [first[1], first[1]]
    lefts = [place[0] for place in seen["distributed"]]
    assert lefts[1] - lefts[0] == pytest.approx(lefts[2] - lefts[1], abs=1)
    assert seen["severalUndone"] == [[8, 8, 64, 64], [104, 40, 64, 64], [400, 300, 64, 64]]


def test_a_locked_region_stays_and_a_hidden_one_is_not_drawn(seen):
    assert seen["locked"][0] == [8, 8, 200, 200]
    assert len(seen["locked"]) == 2  # the drag drew a box above it
    assert seen["hidden"] == [True, 1]
    assert seen["shown"] == [False, 2, False]


def test_another_shape_of_the_canvas_is_the_nodes_and_is_taken_back(seen):
    size, aspect, places = seen["shape"]
    assert size == [704, 384]
    assert aspect == pytest.approx(704 / 384, abs=0.02)
    assert places[0] == [11, 6, 275, 150]
    assert seen["shapeUndone"][0] == [512, 512]
    assert seen["shapeUndone"][1][0] == [8, 8, 200, 200]
    assert seen["preset"] == 6


def test_what_is_drawn_close_up_is_where_it_was_drawn(seen):
    assert seen["zoomed"] > 2
    assert seen["drawnZoomed"] == [[96, 96, 64, 72]]
    assert seen["panned"] == pytest.approx(-20 / 512, abs=0.01)
    assert seen["whole"] == pytest.approx(1, abs=0.01)
    assert seen["regionsAfterZoom"] == 1


def test_help_tells_the_keys_and_closes(seen):
    assert seen["help"] >= 15
    assert seen["helpClosed"] == 0


def test_the_list_has_all_fields_of_every_region(seen):
    assert seen["list"] == [2, 11]
    first, second = seen["listed"]
    assert first["negative"] == "blurry"
    assert (second["prompt"], second["strength"], second["depth"]) == ("the second", 0.5, 3)
    assert second["reference"] == "2"
    assert "reference" not in first


def test_the_large_editor_edits_the_same_layout(seen):
    role, height = seen["large"]
    assert role == "dialog"
    assert height > 700
    ((*place, prompt),) = seen["largeDrawn"]
    assert place == pytest.approx([100, 100, 200, 200], abs=8)
    assert prompt == "large"
    assert seen["largeClosed"] == [0, 1]


def test_a_screen_reader_is_told_what_there_is(seen):
    spoken = seen["spoken"]
    assert spoken["box"] == "Region 1, box, a <wizard>, x 0, y 0, 256 by 512"
    assert "Canvas of 1 regions" in spoken["canvas"]
    assert "a <wizard>" in spoken["canvas"]
    assert spoken["chip"] == spoken["box"]
    assert spoken["status"] == "status"
    assert spoken["nameless"] == []


def test_the_node_is_never_too_narrow(seen):
    assert seen["smallest"] >= 395


def test_a_node_of_an_older_version_grows_once_by_what_is_new(seen):
    first, second = seen["older"]
    assert first >= 1000
    assert second == pytest.approx(first, abs=2)
