"""Which concept a region draws, what the log says, and its pictures."""

import pytest
import torch

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.compose.log import ComposerLog, GuidedStep
from mix_of_show.mos_core.compose.picture import COLUMNS, draw_losses, draw_maps
from mix_of_show.mos_core.compose.report import write_report
from mix_of_show.mos_core.errors import ConceptTokenError, RegionError
from mix_of_show.mos_core.families.unet import SD15, SDXL
from mix_of_show.mos_core.records import Concept, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


def concept(name, *tokens):
    tables = {token: torch.zeros(16, 4) for token in tokens}
    return WeightedConcept(Concept.edlora(name, tables, {}, {}, "sd15"))


CONCEPTS = (concept("potter", "<potter1>", "<potter2>"), concept("cat", "<cat>"))


def assign(*regions, concepts=CONCEPTS):
    return assign_concepts(Regions(512, 512, regions), concepts)


def test_a_region_draws_the_concept_whose_tokens_its_prompt_has():
    found, notes = assign(Region("a <CAT>, sitting", box=LEFT), Region("<potter2>", box=RIGHT))
    assert found == (1, 0)
    assert notes == ()


def test_a_region_draws_the_concept_that_it_names():
    found, notes = assign(
        Region("a man", concept="Potter", box=LEFT), Region("<cat>", concept="<cat>", box=RIGHT)
    )
    assert found == (0, 1)
    assert "has no word of its concept: write <potter1> <potter2>" in notes[0]


def test_two_regions_may_draw_one_concept():
    assert assign(Region("a <cat>", box=LEFT), Region("<cat> asleep", box=RIGHT))[0] == (1, 1)


def test_a_region_without_a_concept_draws_with_the_base_model():
    assert assign(Region("a tree", box=LEFT))[0] == (None,)


def test_a_concept_without_a_region_is_noted():
    _, notes = assign(Region("a <cat>", box=LEFT))
    assert notes == ("The concept 'potter' has no region and is not drawn.",)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (Region("a <car>", box=LEFT), "names <car>, but no loaded concept .* nearest: '<cat>'"),
        (Region("x", concept="cats", box=LEFT), "the concept 'cats', which is not loaded; near"),
        (Region("<cat> and <potter1>", box=LEFT), "names the concepts 'cat' and 'potter'"),
        (Region("<cat>", concept="potter", box=LEFT), "names the concepts 'potter' and 'cat'"),
    ],
)
def test_a_region_that_cannot_be_drawn_says_why_and_what_to_do(region, message):
    with pytest.raises(RegionError, match=message) as caught:
        assign(region)
    assert f"The region '{region.name}'" in str(caught.value)


def test_concepts_that_share_a_token_are_refused():
    twice = (*CONCEPTS, concept("other", "<CAT>"))
    with pytest.raises(ConceptTokenError, match="both claim the token <CAT>"):
        assign(Region("a <cat>", box=LEFT), concepts=twice)


def test_a_token_inside_of_another_is_not_taken_for_it():
    concepts = (concept("dog", "<dog1>"), concept("bulldog", "<bulldog1>"))
    assert assign(Region("a <bulldog1>", box=LEFT), concepts=concepts)[0] == (1,)


# ------------------------------------------------------------------------------- layers


def test_the_layers_of_sd15_and_sdxl_stand_on_their_levels():
    levels = tuple(layer.level for layer in SD15.layers)
    assert levels == (0, 0, 1, 1, 2, 2, 3, 2, 2, 2, 1, 1, 1, 0, 0, 0)
    levels = tuple(layer.level for layer in SDXL.layers)
    assert (levels[:4], levels[4:24], set(levels[24:64])) == ((1,) * 4, (2,) * 20, {2})
    assert levels[64:] == (1,) * 6


# ----------------------------------------------------------------------------- pictures


def log_of(steps, regions=2, value=0.5):
    boxes = [Region(f"region {i}", box=(LEFT, RIGHT)[i % 2]) for i in range(regions)]
    log = ComposerLog(Regions(512, 256, tuple(boxes)), tuple(r.name for r in boxes))
    log.begin(steps)
    for step in range(steps):
        maps = torch.zeros(regions, 8, 16)
        maps[:, 2:6, 2:6] = value
        terms = {n: tuple(range(regions)) for n in ("enhancement", "fill", "restriction")}
        log.steps.append(GuidedStep(step, 5.0, (10.0 - step,), terms, maps))
    return log


def test_the_picture_of_maps_has_a_row_per_region_and_a_column_per_step():
    narrow, wide, tall = (draw_maps(log_of(*n)) for n in ((1, 2), (3, 2), (1, 4)))
    assert wide.shape[2] > narrow.shape[2]
    assert tall.shape[1] > narrow.shape[1]
    assert narrow.dtype == torch.float32
    assert 0 <= narrow.min() <= narrow.max() <= 1


def test_many_steps_are_shown_as_a_few_from_the_first_to_the_last():
    assert draw_maps(log_of(50)).shape == draw_maps(log_of(COLUMNS)).shape


def test_a_brighter_map_is_brighter_in_the_picture():
    step = log_of(1)
    step.steps[0].maps[0, 0, 0] = 1.0  # the row's white; the block of 0.5 is darker
    picture = draw_maps(step)[0]
    block = picture[40 + 20 : 40 + 30, 6 + 30 : 6 + 40].mean()
    corner = picture[40:44, 7:12].mean()
    assert corner > block > 0


@pytest.mark.parametrize("draw", [draw_maps, draw_losses])
def test_a_log_without_steps_is_a_picture_with_its_notes(draw):
    empty = log_of(0)
    plain = draw(empty)
    empty.note("Something was left out.")
    assert not torch.equal(draw(empty), plain)


def test_losses_that_are_no_numbers_do_not_break_the_curve():
    log = log_of(3)
    log.steps[1] = GuidedStep(1, 4.0, (float("nan"),), log.steps[0].terms, torch.zeros(2, 8, 16))
    assert torch.isfinite(draw_losses(log)).all()


def test_the_report_says_how_far_it_went_and_every_note_once():
    log = log_of(3)
    for _ in range(2):
        log.note("A note.")
    report = write_report(log)
    assert "3 of 3 steps were led" in report
    assert "loss 10.00 -> 8.00" in report
    assert report.count("A note.") == 1
    log.begin(5)
    assert write_report(log) == "None of 5 steps was led."
