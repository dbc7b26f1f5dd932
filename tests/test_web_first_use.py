"""What a newcomer meets first, in the editor itself and both of its renderers."""

import os
import re

import pytest

from support.browser import RENDERERS, look

FOUND_BY = {
    "regional lora": "Composer: Regional LoRA, Two Characters",
    "two characters": "Composer: Regional LoRA, Two Characters",
    "composer": "Composer: Regional LoRA, Two Characters",
    "multiple characters": "Regional Sampler: Multiple Characters",
    "character lora": "Load ED-LoRA / LoRA (Character LoRA)",
    "attention couple": "Regional Attention Patch (Couple)",
    "regional prompt": "Region Layout (Regional Prompt)",
    "mix of show": "Apply Concepts (Mix of Show)",
    "merge lora": "Fuse Concepts (Merge LoRAs)",
    "bounding box": "Regions From Bounding Boxes",
}


@pytest.fixture(scope="module", params=RENDERERS)
def seen(request):
    os.environ["MOS_SEARCH_WORDS"] = ",".join(FOUND_BY)
    return look("first_use.mjs", request, request.param)


def test_the_page_has_no_error(seen):
    assert seen["errors"] == []


@pytest.mark.parametrize(("words", "name"), FOUND_BY.items())
def test_search_finds_the_right_node_by_the_words_people_use(seen, words, name):
    assert name in seen["found"][words]


def test_the_composer_comes_before_its_maps(seen):
    found = seen["found"]["composer"]
    first = "Composer: Regional LoRA, Two Characters"
    assert found.index(first) < found.index("Attention Maps (Composer)")


def test_every_socket_type_of_ours_has_a_colour_of_its_own(seen):
    for colors in (seen["colors"], seen["light"]):
        links = [link for link, _ in colors.values()]
        sockets = [socket for _, socket in colors.values()]
        assert all(re.fullmatch("#[0-9a-f]{6}", link) for link in links)
        assert len(set(links)) == len(set(sockets)) == len(colors)
        assert "rgba(0, 0, 0, 0)" not in sockets


def test_a_circle_into_the_layouts_background_is_not_linked_and_the_reason_is_said(seen):
    assert seen["circle"] == {"circle": False, "other": True}
    assert "the canvas shows the picture that was drawn last" in seen["circleSaid"]
