"""No text that a user or a file brings is ever markup in the editor, in both renderers."""

import json

import pytest

from support.browser import RENDERERS, look
from support.server_models import MARKUP

PLACES = ["layout", "layoutAfterRun", "composer", "words", "refused", "dropDowns"]


@pytest.fixture(scope="module", params=RENDERERS)
def seen(request):
    return look("markup.mjs", request, request.param)


def test_the_page_has_no_error(seen):
    assert seen["errors"] == []


def test_the_runs_ended_as_they_should(seen):
    for run in ("layoutRun", "composerRun", "wordsRun"):
        assert seen[run] == ["execution_success", None]
    assert seen["refusedRun"][0] == "execution_error"
    assert "<nobody>" in seen["refusedRun"][1], seen["refusedRun"]


@pytest.mark.parametrize("place", PLACES)
def test_no_script_in_a_text_runs(seen, place):
    assert (seen[place]["ran"], seen[place]["images"]) == (0, [])


@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_read_as_it_was_written(seen, place):
    if place == "refused" and seen["messageLeftOut"]:
        pytest.skip("this editor shows no error's own message")
    assert seen[place]["unread"] == []


def test_a_file_whose_name_is_markup_is_not_listed(seen):
    assert "markup.safetensors" in seen["listed"]
    assert MARKUP not in json.dumps(seen["listed"])
