"""Weights in 8 bits: how near they come back, and what is refused."""

import pytest
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.formats.fused_file import read_fused, save_fused
from mix_of_show.mos_core.formats.packed import LEAST, SCALES, pack, unpack
from mix_of_show.mos_core.formats.tensor_file import TensorFile, write_tensors
from mix_of_show.mos_core.records import Concept, Fused


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {
        "matrix": torch.randn(64, 48, generator=generator),
        "kernel": torch.randn(32, 16, 3, 3, generator=generator) * 1e-4,
        "small": torch.randn(4, 4, generator=generator),
        "vector": torch.randn(5000, generator=generator),
        "rows": torch.arange(3000).view(30, 100),
    }


def test_matrices_come_back_to_within_a_step_and_everything_else_as_float16(weights):
    packed = pack(weights)
    back = unpack("file", packed)
    assert set(back) == set(weights)
    assert packed["matrix"].dtype == packed["kernel"].dtype == torch.int8
    assert sum(t.numel() * t.element_size() for t in packed.values()) < 50_000
    for name in ("matrix", "kernel"):
        assert back[name].dtype == torch.float16
        error = (back[name].float() - weights[name]).norm() / weights[name].norm()
        assert error < 0.008
    for name in ("small", "vector"):
        assert torch.equal(back[name], weights[name].half())
    assert torch.equal(back["rows"], weights["rows"])


def test_packing_again_changes_nothing(weights):
    packed = pack(weights)
    again = pack(unpack("file", packed))
    assert torch.equal(again["matrix"], packed["matrix"])
    torch.testing.assert_close(
        again["matrix" + SCALES], packed["matrix" + SCALES], rtol=1e-3, atol=0
    )


def test_an_outlier_costs_its_row_less_than_it_would_unclipped():
    row = torch.randn(1, LEAST, generator=torch.Generator().manual_seed(1))
    row[0, 0] = 5.0
    kept = unpack("file", pack({"w": row}))["w"].float()
    plain = (row / (5.0 / 127)).round() * (5.0 / 127)
    assert (kept - row).norm() <= (plain - row).norm() * 1.001


def test_a_row_of_zeros_stays_zero():
    assert not unpack("file", pack({"w": torch.zeros(2, LEAST)}))["w"].any()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda t: t.pop("matrix" + SCALES), "has integers without 'matrix.row_scale'"),
        (lambda t: t.pop("matrix"), "'matrix.row_scale' has no weight"),
        (
            lambda t: t.update({"matrix" + SCALES: torch.ones(3)}),
            r"are \(3,\) for weights \(64",
        ),
        (lambda t: t["matrix" + SCALES].fill_(float("nan")), "not all finite"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(weights, spoil, words):
    packed = pack(weights)
    spoil(packed)
    with pytest.raises(FileFormatError, match=words):
        unpack("file", packed)


def test_weights_that_are_not_finite_are_not_packed():
    with pytest.raises(FileFormatError, match="'w' cannot be packed"):
        pack({"w": torch.full((2, LEAST), float("inf"))})


def test_a_fusion_may_have_its_weights_in_8_bits(tmp_path):
    generator = torch.Generator().manual_seed(1)
    concept = Concept("a", ("<a>",), {"clip_l": {"<a>": torch.randn(16, 8)}}, {}, "sd15")
    weights = {"mid_block.attentions.0.proj_in": torch.randn(64, 64, generator=generator)}
    fused = Fused((concept,), {}, weights, "sd15", "0", {})
    path = save_fused(fused, tmp_path, "fused")
    file = TensorFile(path)
    tensors = {n: t for n, t in file.read().items() if n.endswith(".diff")}
    packed = tmp_path / "packed.safetensors"
    write_tensors(packed, {**file.read(), **pack(tensors)}, {**file.metadata, "version": "2"})
    back = read_fused(packed)
    (name,) = weights
    assert (back.unet[name].float() - weights[name]).norm() < 0.008 * weights[name].norm()
    assert torch.equal(back.concepts[0].tables["clip_l"]["<a>"], concept.tables["clip_l"]["<a>"])
