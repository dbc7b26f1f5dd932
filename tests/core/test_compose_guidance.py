"""LoRA-Composer's guidance on stored attention maps: the reference's numbers, and by hand."""

import dataclasses

import pytest
import torch

from mix_of_show.mos_core.compose.cells import box_gaussian, region_cells
from mix_of_show.mos_core.compose.guidance import (
    ENHANCEMENT,
    FILL,
    RESTRICTION,
    GuidanceTerms,
    fill_distances,
    leak,
    region_loss,
    smooth,
    top_means,
)
from mix_of_show.mos_core.regions.region import Box, Region
from support.golden_composer import (
    LAYOUTS,
    golden_regions,
    read_composer_config,
    read_composer_tensors,
)
from support.guided_cells import cells_of, golden_cells

SETS = ("main.mask.t999", "main.mask.t500", "main.nomask.t999", "overlap.mask.t999")
VARIANTS = {
    "default": GuidanceTerms(),
    "no_gauss": GuidanceTerms(centring=False),
    "no_fill": GuidanceTerms(fill=0),
    "no_bg": GuidanceTerms(restriction=0),
    "default.nosmooth": GuidanceTerms(smoothing=False),
}
CASES = [
    (name, variant)
    for name in SETS
    for variant in VARIANTS
    if f"losses.{name}.{variant}.loss" in read_composer_tensors("guidance")
]


def golden_maps(name):
    """Per region: token maps (1, 2, rows, columns), self-attention (1, queries, cells), cells."""
    tensors = read_composer_tensors("guidance")
    whole = tensors[f"maps.{name}.self"].flatten(2).flatten(0, 1)
    for tokens, cells in zip(
        tensors[f"maps.{name}.tokens"], golden_cells(name.split(".")[0]), strict=True
    ):
        yield tokens[None], whole[cells.queries][None], cells


@pytest.mark.parametrize("layout", LAYOUTS)
def test_regions_have_the_cells_of_the_reference(layout):
    suffix = "" if layout == "main" else "_overlap"
    config = read_composer_config()
    for grid in ((32, 64), (16, 32), (8, 16), (4, 8)):
        expected = config["int_boxes" + suffix][f"{grid[0]}x{grid[1]}"]
        for region, (top, left, bottom, right) in zip(
            golden_regions(layout).regions, expected, strict=True
        ):
            window = region_cells(region, *grid).window
            assert window == (slice(top, bottom), slice(left, right))
    assert [c.top_k for c in golden_cells(layout)] == config["top_k" + suffix]


def test_the_gaussian_and_the_smoothing_are_the_references():
    tensors = read_composer_tensors("guidance")
    for number, cells in enumerate(golden_cells("main")):
        expected = tensors[f"losses.const.gauss_weight.region{number}"]
        assert torch.allclose(cells.gaussian[cells.window], expected, atol=1e-6)
    for region, (tokens, _, _) in enumerate(golden_maps("main.mask.t999")):
        for token, found in enumerate(smooth(tokens)[0]):
            expected = tensors[f"losses.main.mask.t999.smoothed.region{region}.token{token}"]
            assert torch.allclose(found, expected, atol=1e-6)


def test_all_stored_losses_are_tested():
    stored = [k for k in read_composer_tensors("guidance") if k.endswith(".loss")]
    assert len(CASES) == len(stored) == 17


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_each_term_equals_the_reference(name, variant):
    tensors, terms = read_composer_tensors("guidance"), VARIANTS[variant]
    stored = {
        key: tensors[f"losses.{name}.{variant}.{key}"]
        for key in ("fg_mean", "fg_loss8", "fill_x2", "fill_y2", "bg10", "loss")
    }
    total = torch.zeros(())
    for number, (tokens, own, cells) in enumerate(golden_maps(name)):
        pair = slice(2 * number, 2 * number + 2)
        maps = smooth(tokens) if terms.smoothing else tokens
        means = top_means(maps, cells, terms.centring)[0]
        assert torch.allclose(means, stored["fg_mean"][pair], atol=1e-5)
        loss = region_loss(tokens, own, cells, terms)
        assert torch.allclose(loss.enhancement, stored["fg_loss8"][pair].sum(), atol=1e-5)
        if terms.fill:
            across, down = fill_distances(maps, cells)
            assert torch.allclose(2 * across[0], stored["fill_x2"][pair], atol=1e-5)
            assert torch.allclose(2 * down[0], stored["fill_y2"][pair], atol=1e-5)
        if terms.restriction:
            assert torch.allclose(loss.restriction, stored["bg10"][number], atol=1e-5)
        total = total + loss.total[0]
    assert torch.allclose(total, stored["loss"], atol=2e-5)


def test_a_map_that_fills_its_box_and_leaks_nothing_costs_nothing():
    cells = cells_of(0, 0, 0.5, 1)
    tokens = cells.inside.expand(1, 1, 4, 4)
    own = torch.zeros(1, len(cells.queries), 16)
    terms = GuidanceTerms(smoothing=False)
    loss = region_loss(tokens, own, cells, terms)
    assert loss.fill.item() == loss.restriction.item() == 0
    assert loss.enhancement.item() == pytest.approx(
        ENHANCEMENT * (1 - cells.gaussian.max().item()), abs=1e-6
    )


def test_an_empty_map_costs_the_factors():
    cells = cells_of(0, 0, 0.5, 1)  # 2 of 4 columns, all 4 rows
    own = torch.full((1, len(cells.queries), 16), 0.25)
    loss = region_loss(torch.zeros(1, 1, 4, 4), own, cells, GuidanceTerms())
    assert loss.enhancement.item() == ENHANCEMENT
    assert loss.fill.item() == pytest.approx(FILL * (2 / 4 + 4 / 4))
    assert loss.restriction.item() == pytest.approx(RESTRICTION * 0.25)


def test_strengths_multiply_their_terms_and_zero_switches_them_off():
    cells = cells_of(0, 0, 0.5, 1)
    tokens, own = torch.rand(2, 3, 4, 4), torch.rand(2, len(cells.queries), 16)
    plain = region_loss(tokens, own, cells, GuidanceTerms())
    double = region_loss(tokens, own, cells, GuidanceTerms(2, 3, 4))
    assert torch.allclose(double.enhancement, 2 * plain.enhancement)
    assert torch.allclose(double.fill, 3 * plain.fill)
    assert torch.allclose(double.restriction, 4 * plain.restriction)
    off = region_loss(tokens, own, cells, GuidanceTerms(0, 0, 0))
    assert not off.total.any()
    assert not GuidanceTerms(0, 0, 0).any


def test_pictures_of_a_batch_do_not_see_each_other():
    cells = cells_of(0.25, 0, 0.75, 1)
    tokens, own = torch.rand(3, 2, 4, 4), torch.rand(3, len(cells.queries), 16)
    together = region_loss(tokens, own, cells, GuidanceTerms()).total
    alone = [region_loss(tokens[i, None], own[i, None], cells, GuidanceTerms()) for i in range(3)]
    assert torch.allclose(together, torch.cat([loss.total for loss in alone]))


def test_a_region_without_a_concept_has_the_restriction_alone():
    cells = cells_of(0, 0, 0.5, 1)
    loss = region_loss(torch.zeros(1, 0, 4, 4), torch.ones(1, 8, 16), cells, GuidanceTerms())
    assert loss.enhancement.item() == loss.fill.item() == 0
    assert loss.restriction.item() == RESTRICTION


def test_a_region_over_the_whole_canvas_leaks_nowhere():
    cells = cells_of(0, 0, 1, 1)
    loss = region_loss(torch.rand(1, 1, 4, 4), torch.ones(1, 16, 16), cells, GuidanceTerms())
    assert loss.restriction.item() == 0
    assert torch.isfinite(loss.total).all()


def test_a_region_of_one_cell_counts_one_value():
    cells = cells_of(0, 0, 0.25, 0.25)
    assert (cells.top_k, cells.gaussian[0, 0].item()) == (1, 1)
    loss = region_loss(torch.rand(1, 1, 4, 4), torch.ones(1, 1, 16), cells, GuidanceTerms())
    assert torch.isfinite(loss.total).all()


def test_a_region_smaller_than_every_cell_has_none():
    assert cells_of(0.05, 0.05, 0.2, 0.2) is None


def test_the_weight_of_a_region_does_not_change_its_cells():
    region = Region("", weight=0.3, box=Box(0, 0, 0.5, 1))
    assert torch.equal(region_cells(region, 4, 4).inside, cells_of(0, 0, 0.5, 1).inside)


def test_a_mask_that_is_a_box_has_the_boxs_cells():
    mask = torch.zeros(64, 64)
    mask[:, :32] = 1
    masked, boxed = region_cells(Region("", mask=mask), 4, 4), cells_of(0, 0, 0.5, 1)
    for field in dataclasses.fields(masked):
        a, b = getattr(masked, field.name), getattr(boxed, field.name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_a_round_region_has_no_gaussian_outside_itself():
    y, x = torch.meshgrid(torch.linspace(-1, 1, 64), torch.linspace(-1, 1, 64), indexing="ij")
    cells = region_cells(Region("", mask=((x**2 + y**2) < 0.8).float()), 16, 16)
    assert not cells.gaussian[cells.inside == 0].any()
    assert cells.gaussian[8, 8] > 0.9
    assert len(cells.queries) + len(cells.outside) == 256


def test_the_gaussian_is_symmetric_with_its_largest_value_one():
    field = box_gaussian(4, 7)
    assert field.max() == 1
    assert torch.allclose(field, field.flip(0).flip(1))
    assert field[0, 0].item() == pytest.approx(2.71828**-1 / 2.71828 ** -(1 / 18), rel=1e-4)


def test_the_gradient_of_the_leak_reaches_the_largest_values_only():
    cells = cells_of(0, 0, 0.5, 1)  # 8 cells, k = 1
    own = torch.rand(1, 8, 16)
    own[0, 3, 2] = 9.0  # column 2 lies outside
    own.requires_grad_(True)
    leak(own, cells).sum().backward()
    assert own.grad.nonzero().tolist() == [[0, 3, 2]]
