"""Ring 1: mistakes that would draw another picture in silence, as sentences."""

import torch

from mix_of_show.mos_core.compose.notes import (
    bare_word_notes,
    fused_notes,
    overlap_notes,
    shape_notes,
)
from mix_of_show.mos_core.compose.scene import scene_notes
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.mos_core.text.vocabulary import Vocabulary

LEFT, RIGHT, MIDDLE = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1), Box(0.25, 0, 0.75, 1)
TABLE = torch.zeros(16, 4)
KNOWN = Vocabulary(
    {"clip_l": dict.fromkeys(("<wizard>", "<potter1>", "<potter2>"), TABLE)},
    {"<wizard>": "wizard", "<potter1>": "potter", "<potter2>": "potter"},
)
NOTHING = Vocabulary({}, {})


def regions(*given, width=512, height=256):
    return Regions(width, height, tuple(Region(prompt, box=box) for prompt, box in given))


def test_a_layout_that_is_right_has_no_notes():
    right = regions(("a <wizard> at sea", LEFT), ("a <potter1> <potter2>", RIGHT))
    assert fused_notes(right, KNOWN) == ()
    assert shape_notes(right, 1024, 512) == ()
    assert fused_notes(regions(("a cat", LEFT), ("i <3 you", RIGHT)), NOTHING) == ()


def test_a_token_on_a_clip_without_concepts_is_said_to_be_plain_words():
    (note,) = fused_notes(regions(("a <wizard>", LEFT), ("a cat", RIGHT)), NOTHING)
    assert "'a <wizard>' names <wizard>" in note
    assert "plain words" in note


def test_a_token_without_brackets_is_said_with_the_word_to_write():
    words = {"a wizard at sea": "<wizard>", "Potter smiles": "<potter1>", "potter2!": "<potter2>"}
    for prompt, token in words.items():
        (note,) = bare_word_notes([Region(prompt, box=LEFT)], KNOWN.tokens)
        assert note.endswith(f"angle brackets: {token}.")
    assert bare_word_notes([Region("wizardry, pottery", box=LEFT)], KNOWN.tokens) == ()


def test_a_region_that_names_a_concept_may_say_the_word_too():
    assert fused_notes(regions(("a <wizard>, a wizard's hat", LEFT)), KNOWN) == ()


def test_two_concepts_on_one_place_are_told_unless_one_is_in_front():
    both = [Region("a <wizard>", box=LEFT), Region("a <potter1>", box=MIDDLE)]
    (note,) = overlap_notes(both, ["wizard", "potter"])
    assert "50% of the smaller one" in note
    assert overlap_notes(both, ["wizard", "wizard"]) == ()
    assert overlap_notes(both, ["wizard", None]) == ()
    stacked = Regions(
        512,
        512,
        (Region("a", box=LEFT, depth=0.0), Region("b", box=MIDDLE, depth=1.0)),
    )
    assert overlap_notes(stacked.regions, ["wizard", "potter"]) == ()


def test_a_little_overlap_is_no_mistake():
    near = [Region("a", box=LEFT), Region("b", box=Box(0.45, 0, 0.95, 1))]
    assert overlap_notes(near, [0, 1]) == ()


def test_a_layout_of_another_shape_is_told_with_both_sizes():
    (note,) = shape_notes(regions(("a", LEFT), width=128, height=128), 384, 128)
    assert "128 x 128" in note
    assert "384 x 128" in note
    assert shape_notes(Regions(128, 128), 384, 128) == ()


def graph(text="a <Wizard> in snow", source="1", composer=None):
    """Loader 1, Apply Concepts 2, text 3, composer 4, sampler 5."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "<wizard>"}},
        "2": {"class_type": "MOS_ApplyConcepts", "inputs": {"clip": ["1", 1]}},
        "3": {
            "class_type": "CLIPTextEncode",
            "inputs": {"text": text, "clip": [source, 1]},
            "_meta": {"title": "The scene"},
        },
        "4": {
            "class_type": "MOS_ComposerAttention",
            "inputs": {"clip": ["1", 1], "model": ["1", 0], **(composer or {})},
        },
        "5": {"class_type": "KSampler", "inputs": {"model": ["4", 0], "positive": ["3", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "<wizard>", "clip": ["1", 1]}},
    }


def test_a_token_in_the_composers_scene_prompt_is_said_to_be_plain_words():
    (note,) = scene_notes(graph(), "5", ["<wizard>"])
    assert "'The scene' names <wizard>" in note
    (note,) = scene_notes(graph(source="4"), "5", ["<wizard>"])
    assert "background_concept" in note


def test_a_text_that_comes_over_a_link_counts():
    prompt = graph(text=["7", 0])
    prompt["7"] = {"class_type": "PrimitiveString", "inputs": {"value": "a <wizard>"}}
    assert len(scene_notes(prompt, "5", ["<wizard>"])) == 1


def test_a_scene_prompt_that_knows_the_concept_or_does_not_name_it_has_no_note():
    assert scene_notes(graph(source="2"), "5", ["<wizard>"]) == ()
    assert scene_notes(graph(text="snow"), "5", ["<wizard>"]) == ()
    with_background = graph(source="4", composer={"background_concept": "wizard"})
    assert scene_notes(with_background, "5", ["<wizard>"]) == ()
