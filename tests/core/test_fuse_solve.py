"""Ring 1: the fusion solvers against the reference's stored layers, and by hand."""

import pytest
import torch

from mix_of_show.mos_core.fuse.solve import (
    LBFGS_STEPS,
    LBFGS_STEPS_SPATIAL,
    SolveOptions,
    solve_exact,
    solve_lbfgs,
)
from mix_of_show.mos_core.fuse.sums import Gram, LayerSums
from mix_of_show.mos_core.records import LowRank
from support.golden import read_meta, read_tensors

FILES = {"fusion": "fusion_layers", "fusion_variant": "fusion_variant_layers"}
LAYERS = [(tag, number) for tag in FILES for number in read_meta()["fusion"][tag]["layers"]]


def golden_layer(tag: str, number: str):
    """Rows (n, in), the change asked of them (n, out), W0 (out, in) and the facts of a layer."""
    tensors = {
        k.removeprefix(f"{number}."): v.double()
        for k, v in read_tensors(FILES[tag]).items()
        if k.startswith(f"{number}.")
    }
    rows, targets = (
        t if t.ndim == 2 else t.movedim(1, -1).flatten(0, -2) for t in (tensors["X"], tensors["V"])
    )
    base = tensors["W0"].flatten(1)
    solved = {k: tensors[k].flatten(1) - base for k in ("W_exact", "W_lbfgs")}
    return rows, targets - rows @ base.T, solved, read_meta()["fusion"][tag]["layers"][number]


def sums_of(rows: torch.Tensor, change: torch.Tensor, dtype=torch.float64) -> LayerSums:
    """The layer's sums as if the rows belonged to one concept each whose delta does `change`."""
    gram = Gram(dtype)
    gram.add(rows.to(dtype))
    sums = LayerSums.empty(change.shape[1], rows.shape[1], "cpu")
    sums.add(gram, None)
    sums.cross = change.T @ rows
    sums.energy = change.square().sum().item()
    return sums


def as_pair(delta: torch.Tensor) -> LowRank:
    """Any delta (out, in) as factors of full rank."""
    return LowRank(delta, torch.eye(len(delta)))


def mse(rows, change, delta) -> float:
    return (change - rows @ delta.T).square().mean().item()


@pytest.mark.parametrize(("tag", "number"), LAYERS)
def test_the_exact_solution_is_the_stored_one_and_never_above_lbfgs(tag, number):
    rows, change, solved, facts = golden_layer(tag, number)
    delta = solve_exact(sums_of(rows, change)).delta
    loss = mse(rows, change, delta)
    assert loss <= facts["mse_lbfgs"] * (1 + 1e-9)
    assert loss <= facts["mse_exact"] * (1 + 1e-3) + 1e-20
    if facts["rank"] in (rows.shape[1], rows.shape[0]):  # else W depends on the cut-off
        torch.testing.assert_close(delta, solved["W_exact"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("tag", "number"), LAYERS)
def test_sums_of_float32_products_lose_next_to_nothing_without_a_ridge(tag, number):
    rows, change, _, facts = golden_layer(tag, number)
    loss = mse(rows, change, solve_exact(sums_of(rows, change, torch.float32)).delta)
    assert loss <= facts["mse_exact"] + 1e-4 * facts["mse_before"]


@pytest.mark.parametrize(("tag", "number"), LAYERS)
def test_lbfgs_on_sums_does_what_the_reference_does_on_rows(tag, number):
    rows, change, _, facts = golden_layer(tag, number)
    steps = LBFGS_STEPS_SPATIAL if "spatial" in facts["stage"] else LBFGS_STEPS
    loss = mse(
        rows, change, solve_lbfgs(sums_of(rows, change), (), SolveOptions(steps=steps)).delta
    )
    assert facts["mse_exact"] - 1e-12 <= loss <= facts["mse_lbfgs"] + 0.05 * facts["mse_before"]


@pytest.mark.parametrize(("tag", "number"), LAYERS)
def test_the_loss_from_the_sums_is_the_loss_on_the_rows(tag, number):
    rows, change, solved, facts = golden_layer(tag, number)
    sums = sums_of(rows, change)
    for delta, known in (
        (torch.zeros_like(solved["W_exact"]), facts["mse_before"]),
        (solved["W_lbfgs"], facts["mse_lbfgs"]),
    ):
        assert sums.loss(delta) == pytest.approx(known, rel=1e-4, abs=1e-9)
        assert sums.loss(delta) == pytest.approx(mse(rows, change, delta), rel=1e-6, abs=1e-11)


def test_one_concept_gives_back_its_own_delta_on_the_span_of_its_inputs():
    delta, rows = torch.randn(6, 8).double(), torch.randn(5, 8).double()
    gram, sums = Gram(), LayerSums.empty(6, 8, "cpu")
    gram.add(rows)
    sums.add(gram, as_pair(delta))
    solved = solve_exact(sums).delta
    torch.testing.assert_close(rows @ solved.T, rows @ delta.T)
    away = torch.linalg.svd(rows).Vh[5:]  # directions that no row has: W0 stays
    assert (solved @ away.T).abs().max() < 1e-9


def test_two_concepts_with_separate_inputs_both_get_what_they_ask_for():
    sums = LayerSums.empty(3, 4, "cpu")
    deltas = torch.randn(2, 3, 4).double()
    for i, delta in enumerate(deltas):
        gram = Gram()
        gram.add(torch.eye(4).double()[2 * i : 2 * i + 2])
        sums.add(gram, as_pair(delta))
    solved = solve_exact(sums).delta
    torch.testing.assert_close(solved[:, :2], deltas[0][:, :2])
    torch.testing.assert_close(solved[:, 2:], deltas[1][:, 2:])
    assert sums.loss(solved) < 1e-12


def test_a_ridge_shrinks_towards_the_base_weight_and_an_anchor_holds_its_rows():
    gram, sums, delta = Gram(), LayerSums.empty(4, 4, "cpu"), torch.randn(4, 4).double()
    gram.add(torch.randn(50, 4).double())
    sums.add(gram, as_pair(delta))
    norms = [
        solve_exact(sums, (), SolveOptions(ridge)).delta.norm().item() for ridge in (0, 0.1, 10)
    ]
    assert norms[0] > norms[1] > norms[2]
    anchor = Gram()
    anchor.add(torch.eye(4).double()[:1] * 100)
    sums.inputs.add_anchor(anchor, 1e6)
    assert solve_exact(sums).delta[:, 0].abs().max() < 1e-4


def test_factors_and_strength_ask_for_what_their_product_asks():
    rows = torch.randn(30, 8).double()
    pair = LowRank(torch.randn(2, 8).double(), torch.randn(6, 2).double())
    gram = Gram()
    gram.add(rows)
    sums = LayerSums.empty(6, 8, "cpu")
    sums.add_target(sums.inputs.add(gram), pair.scaled(0.7))
    asked = 0.7 * pair.up @ pair.down
    torch.testing.assert_close(sums.cross, asked @ gram.matrix)
    assert sums.energy == pytest.approx((rows @ asked.T).square().sum().item())
    assert sums.loss(asked) < 1e-12


def test_the_order_of_concepts_does_not_matter():
    parts = [(torch.randn(9, 8).double(), torch.randn(6, 8).double()) for _ in range(4)]
    solved = []
    for order in (parts, parts[::-1]):
        sums = LayerSums.empty(6, 8, "cpu")
        for rows, delta in order:
            gram = Gram()
            gram.add(rows)
            sums.add(gram, as_pair(delta))
        solved.append(solve_exact(sums).delta)
    torch.testing.assert_close(*solved, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(4))
def test_directions_that_hardly_vary_are_kept_in_sums_of_float32_products(seed):
    """A spectrum that falls by a factor of a million: one concept alone comes back all the same."""
    torch.manual_seed(seed)
    width = 96
    spread = torch.logspace(0, -3, width).double()
    rows = torch.randn(6000, width).double() * spread
    delta = torch.randn(8, width).double()
    gram, sums = Gram(torch.float32), LayerSums.empty(8, width, "cpu")
    for block in rows.split(1000):
        gram.add(block.float())
    sums.add(gram, as_pair(delta))
    solved = solve_exact(sums).delta
    lost = (rows @ (solved - delta).T).square().mean() / (rows @ delta.T).square().mean()
    assert lost < 1e-6
