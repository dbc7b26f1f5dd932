"""Every kind of delta does with rows and Gram matrices what its matrix does."""

import pytest
import torch
import torch.nn.functional as F

from mix_of_show.mos_core.deltas import (
    Convolution,
    Decomposed,
    Kronecker,
    LowRank,
    Whole,
    WithBias,
    cut,
    hadamard,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


LOW = LowRank(random(3, 12), random(8, 3, seed=1))
KINDS = {
    "low rank": LOW,
    "1x1 convolution": LowRank(random(3, 12, 1, 1), random(8, 3, 1, 1, seed=1)),
    "whole": Whole(random(8, 12)),
    "hadamard": hadamard(LOW, LowRank(random(2, 12, seed=2), random(8, 2, seed=3))),
    "kronecker": Kronecker(random(4, 3), random(2, 4, seed=1)),
    "decomposed": Decomposed(random(8, 12, seed=4), random(8, seed=5), random(8, seed=6), LOW),
    "convolution": Convolution(LowRank(random(3, 12), random(8, 3, seed=1)), (2, 2)),
    "with bias": WithBias(LOW, torch.zeros(8), 12),
}


@pytest.fixture(params=KINDS)
def delta(request):
    return KINDS[request.param]


def test_rows_go_through_it_as_through_its_matrix(delta):
    x = random(2, 5, 12, seed=7)
    torch.testing.assert_close(delta.on_rows(x), x @ delta.matrix().T)
    assert delta.matrix().shape == delta.shape == (8, 12)


def test_a_gram_matrix_is_multiplied_as_by_its_matrix(delta):
    gram = random(12, 12, seed=8)
    torch.testing.assert_close(delta.times(gram), delta.matrix() @ gram)
    assert delta.times(gram.double()).dtype == torch.float64


def test_a_strength_scales_it(delta):
    torch.testing.assert_close(delta.scaled(-0.5).matrix(), -0.5 * delta.matrix())
    assert delta.scaled(0.0).matrix().abs().max() == 0


def test_some_of_its_outputs_are_a_delta_of_their_own(delta):
    part = delta.take(2, 4)
    torch.testing.assert_close(part.matrix(), delta.matrix()[2:6])
    assert part.shape == (4, 12)


def test_it_moves_to_another_dtype_with_all_its_parts(delta):
    moved = delta.to("cpu", torch.float16)
    assert moved.on_rows(random(2, 12).half()).dtype == torch.float16
    torch.testing.assert_close(moved.matrix(), delta.matrix(), rtol=0.01, atol=0.01)


def test_scaling_half_precision_factors_rounds_nothing_away():
    half = LowRank(random(3, 12).half(), random(8, 3, seed=1).half())
    expected = 0.3 * (half.up.double() @ half.down.double())
    torch.testing.assert_close(half.scaled(0.3).matrix().double(), expected, rtol=1e-5, atol=1e-6)


def test_a_hadamard_product_takes_the_smaller_form():
    small = LowRank(random(1, 40), random(40, 1))
    large = LowRank(random(30, 40), random(40, 30))
    assert isinstance(hadamard(small, small), LowRank)
    assert isinstance(hadamard(large, large), Whole)
    for one, other in ((small, large), (large, large)):
        expected = one.matrix() * other.matrix()
        torch.testing.assert_close(hadamard(one, other).matrix(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("low_rank", [True, False])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolutions_delta_is_that_of_its_kernel(low_rank, stride):
    kernel = random(8, 3, 3, 3)
    flat = kernel.flatten(1)
    inner = Whole(flat)
    if low_rank:
        inner = LowRank(random(2, 27), random(8, 2, seed=1))
        kernel = inner.matrix().unflatten(1, (3, 3, 3))
    module = torch.nn.Conv2d(3, 8, 3, stride=stride, padding=1)
    x = random(2, 3, 6, 8, seed=9)
    found = Convolution(inner, (3, 3)).on_map(x, module)
    torch.testing.assert_close(found, F.conv2d(x, kernel, None, stride, 1), rtol=1e-4, atol=1e-4)
    with_bias = WithBias(Convolution(inner, (3, 3)), random(8), 27).on_map(x, module)
    torch.testing.assert_close(with_bias, found + random(8)[:, None, None])


def test_a_bias_alone_is_added_to_every_row():
    delta = WithBias(None, random(8), 12)
    x = random(2, 5, 12)
    torch.testing.assert_close(delta.on_rows(x), random(8).expand(2, 5, 8))
    assert delta.matrix().shape == (8, 12)
    assert delta.take(2, 3).on_rows(x).shape == (2, 5, 3)
    module = torch.nn.Conv2d(12, 8, 1)
    torch.testing.assert_close(
        delta.on_map(random(1, 12, 2, 2), module), random(8)[:, None, None].expand(1, 8, 2, 2)
    )


@pytest.mark.parametrize("name", ["low rank", "whole", "kronecker"])
def test_cutting_to_its_own_rank_changes_nothing(name):
    delta = KINDS[name]
    assert cut(delta, 8) == (delta, 1.0)


@pytest.mark.parametrize("name", ["low rank", "whole", "kronecker"])
def test_cutting_is_the_truncated_svd(name):
    delta = KINDS[name]
    found, kept = cut(delta, 2)
    u, s, v = torch.linalg.svd(delta.matrix().double())
    expected = (u[:, :2] * s[:2]) @ v[:2]
    assert found.rank == 2
    torch.testing.assert_close(found.matrix().double(), expected, rtol=1e-4, atol=1e-4)
    assert kept == pytest.approx((s[:2].square().sum() / s.square().sum()).item(), rel=1e-4)
