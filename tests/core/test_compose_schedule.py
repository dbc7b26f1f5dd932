"""Ring 1: resolution of the maps, step sizes, the stop and re-initialisation of the composer."""

import pytest
import torch

from mix_of_show.mos_core.compose.cells import choose_level, grids_of, region_cells
from mix_of_show.mos_core.compose.reinit import best_window, paste_windows, with_statistics_of
from mix_of_show.mos_core.compose.schedule import StopRule, step_sizes
from mix_of_show.mos_core.regions.region import Box, Region
from support.golden_composer import (
    LAYOUTS,
    read_composer_config,
    read_composer_tensors,
)
from support.guided_cells import cells_of, golden_cells

# ------------------------------------------------------------------------------ resolution


def test_feature_maps_halve_and_round_up_as_the_unets_do():
    assert grids_of(33, 64, 4) == ((33, 64), (17, 32), (9, 16), (5, 8))


def test_the_level_falls_back_to_a_finer_one_until_regions_have_cells_enough():
    grids = grids_of(64, 64, 4)
    large, small = Region("", box=Box(0, 0, 0.5, 1)), Region("", box=Box(0, 0, 0.2, 0.2))
    assert choose_level([large], grids, 2, 16) == 2
    assert choose_level([large, small], grids, 2, 16) == 1
    assert choose_level([Region("", box=Box(0, 0, 0.02, 0.02))], grids, 2, 16) == 0


# ------------------------------------------------------------------- steps and stopping


@pytest.mark.parametrize("run", ["run6", "run12"])
def test_step_sizes_and_the_stop_are_the_references(run):
    record = read_composer_config()["runs"][run]
    sizes = step_sizes(record["num_steps"])
    rule = StopRule(1)
    for i, (loss, size, active) in enumerate(
        zip(record["loss"], record["step_size"], record["refine_active"], strict=True)
    ):
        assert rule.active == [active]
        if active:
            assert sizes[i] == pytest.approx(size)
            rule.seen(i, [loss])
    assert rule.active == [record["refine_flag_after_step"][-1]]


def test_guidance_ends_after_26_steps_even_if_the_loss_falls():
    rule = StopRule(1)
    done = 0
    for step in range(50):
        done += rule.active[0]
        rule.seen(step, [100.0 - step])
    assert done == 26


def test_the_pictures_of_a_batch_stop_each_for_itself():
    rule = StopRule(2)
    for step in range(7):
        rule.seen(step, [10.0 - step, 10.0 + step])
    assert rule.active == [True, False]


def test_a_loss_that_is_no_number_stops_nothing():
    rule = StopRule(1)
    for step, loss in enumerate([5.0, 4.0, 3.0, 2.0, 1.0, float("nan"), 0.5]):
        rule.seen(step, [loss])
    assert rule.active == [True]
    assert rule.before == [0.5]


def test_no_steps_at_all_are_no_guidance():
    assert StopRule(2, 0).active == [False, False]


def test_a_part_of_the_schedule_has_its_part_of_the_step_sizes():
    whole = step_sizes(21)
    assert step_sizes(11, begin=0.5) == pytest.approx(whole[10:])
    assert step_sizes(11, end=0.5) == pytest.approx(whole[:11])
    assert step_sizes(1) == [20.0]


# ----------------------------------------------------------------------- re-initialisation


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reinitialisation_equals_the_reference(layout):
    tensors = read_composer_tensors("reinit")
    latent = tensors["latents_in"][0]
    cells = golden_cells(layout)
    maps = read_composer_tensors("guidance")[f"maps.{layout}.mask.t999.tokens"]
    places = [best_window(m, c) for m, c in zip(maps, cells, strict=True)]
    assert places == [tuple(int(n) for n in row) for row in tensors[f"{layout}.source_rowcol"]]
    pasted = paste_windows(latent, places, cells, 4)
    assert torch.equal(pasted, tensors[f"{layout}.pasted"][0])
    done = with_statistics_of(pasted, latent)
    assert torch.allclose(done, tensors[f"{layout}.latents_out"][0], atol=1e-5)
    assert done.mean().item() == pytest.approx(latent.mean().item(), abs=1e-6)
    assert done.std().item() == pytest.approx(latent.std().item(), rel=1e-5)


def test_a_region_finds_the_brightest_place_of_its_size():
    cells = cells_of(0, 0, 0.5, 0.5, rows=8, columns=8)
    maps = torch.zeros(2, 8, 8)
    maps[0, 4:8, 3:7] = 0.5
    maps[1, 4, 3] = 0.2
    assert best_window(maps, cells) == (4, 3)


def test_a_region_whose_own_place_is_best_stays_as_it_is():
    cells = cells_of(0.25, 0.25, 0.75, 0.75)
    latent = torch.randn(4, 16, 16)
    assert torch.equal(paste_windows(latent, [(1, 1)], [cells], 4), latent)


def test_a_latent_that_is_no_multiple_of_the_cell_is_pasted_inside_itself():
    region = Region("", box=Box(0.4, 0.4, 1, 1))
    cells = region_cells(region, 9, 9)  # of a latent of 33 x 33
    latent = torch.randn(4, 33, 33)
    pasted = paste_windows(latent, [(0, 0)], [cells], 4)
    assert torch.equal(pasted[:, 16:33, 16:33], latent[:, 0:17, 0:17])
