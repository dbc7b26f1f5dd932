"""Find Regions: which words name which concept, and what is left of the prompt for one."""

from mix_of_show.mos_core.find.words import find_mentions, region_prompt


def test_mentions_are_found_in_the_order_of_the_prompt():
    prompt = [0, "a", "A1", "A2", "and", "B", ",", 9, 9]
    mentions = find_mentions(prompt, [[["B"]], [["A1"], ["A2"]]], [False, False])
    assert [(m.concept, m.positions) for m in mentions] == [(1, (2, 3)), (0, (5,))]


def test_naming_a_concept_twice_is_two_mentions():
    prompt = ["A1", "A2", ",", "A1", "A2"]
    mentions = find_mentions(prompt, [[["A1"], ["A2"]]], [False])
    assert [m.positions for m in mentions] == [(0, 1), (3, 4)]
    assert [m.occurrence for m in mentions] == [0, 1]


def test_words_of_an_ordinary_lora_are_one_mention_wherever_they_stand():
    prompt = ["sks", "man", "in", "a", "blue", "suit"]
    mentions = find_mentions(prompt, [[["sks", "man"], ["blue", "suit"], ["hat"]]], [True])
    assert [m.positions for m in mentions] == [(0, 1, 4, 5)]


def test_a_regions_prompt_has_its_own_part_the_scene_and_as_many_as_there_are():
    prompt = "a <w> on the left, a <b> on the right in red, beach, <w> waves"
    assert region_prompt(prompt, ["<w>"], [["<b>"]]) == "a <w> on the left, a <w>, beach, a <w>"
    assert region_prompt(prompt, ["<w>"], [["<b>"]], 1) == "a <w>, a <w>, beach, <w> waves"
    third = region_prompt(prompt, ["<b>"], [["<w>"]])
    assert third == "a <b>, a <b> on the right in red, beach, a <b>"


def test_a_part_that_names_two_is_cut_down_to_the_own_words():
    prompt = "<a1> <a2> hugs <b>, night"
    assert region_prompt(prompt, ["<a1>", "<a2>"], [["<b>"]]) == "<a1> <a2>, <a1> <a2>, night"


def test_nothing_is_said_of_how_another_looks():
    prompt = "anna, red hair, boris, big nose, beach"
    words = ["anna", "red hair"], ["boris", "big nose"]
    assert region_prompt(prompt, words[0], [words[1]]) == "anna, red hair, anna red hair, beach"


def test_a_template_takes_the_concepts_words_and_its_part_of_the_prompt():
    assert region_prompt("x", ["<a1>", "<a2>"], [], 0, "a %concept%, night") == "a <a1> <a2>, night"
    prompt = "a <w> on the left, a <b> on the right, beach, <w> waves"
    part = "%part%, best quality"
    found = region_prompt(prompt, ["<w>"], [["<b>"]], 0, part)
    assert found == "a <w> on the left, beach, best quality"
    assert region_prompt(prompt, ["<w>"], [["<b>"]], 1, "%part%") == "beach, <w> waves"


def test_a_prompt_without_the_words_gets_them():
    assert region_prompt("night", ["<w>"], []) == "<w>, night"
