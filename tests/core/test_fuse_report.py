"""Ring 1: whose loss a fusion is, low-rank export, sums on disk, memory."""

import runpy
from pathlib import Path

import pytest
import torch
from PIL import ImageColor

from mix_of_show.mos_core.errors import MosError
from mix_of_show.mos_core.families.family import OTHERS
from mix_of_show.mos_core.fuse import chart
from mix_of_show.mos_core.fuse.chart import draw_fusion
from mix_of_show.mos_core.fuse.low_rank import describe_truncation, factorise
from mix_of_show.mos_core.fuse.report import conflicts, describe_fusion
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.fuse.sketch import SKETCH_ROWS, errors_of_concepts, signs, sketch_of
from mix_of_show.mos_core.fuse.stage import Layer, StageSums, portions, sums_bytes
from mix_of_show.mos_core.fuse.sums import Gram
from mix_of_show.mos_core.fuse.sums_file import read_sums, write_sums
from mix_of_show.mos_core.records import LowRank, Site

CLONE = Path(__file__).absolute().parent.parent.parent
LiveBytes = runpy.run_path(str(CLONE / "benchmarks" / "_live_bytes.py"))["LiveBytes"]
MODULE = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
PATH = "diffusion_model.middle_block.1.transformer_blocks.0"


def layer(name: str, out: int, width: int, group: str = "") -> Layer:
    return Layer(Site(f"{PATH}.{name}.weight"), group or name, (out, width), OTHERS)


def filled(rows: torch.Tensor) -> Gram:
    gram = Gram()
    gram.add(rows)
    return gram


def pair(out: int, width: int, seed: int) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    return LowRank(
        torch.randn(2, width, generator=generator), torch.randn(out, 2, generator=generator)
    )


def test_a_sketch_keeps_squared_norms_on_average():
    torch.manual_seed(0)
    ratios = []
    for trial in range(300):
        rows, change = torch.randn(300, 12) + 0.5, torch.randn(12, 6)
        known = (rows @ change).square().sum()
        ratios.append((sketch_of(rows, 300 * trial) @ change).square().sum() / known)
    mean = torch.stack(ratios).mean()
    assert 0.95 < mean < 1.05
    assert torch.stack(ratios).std() < 0.6


def test_a_sketch_of_rows_in_pieces_has_other_buckets_but_the_same_signs():
    assert torch.equal(torch.cat([signs(0, 40, "cpu"), signs(40, 60, "cpu")]), signs(0, 100, "cpu"))
    assert abs(signs(0, 4096, "cpu").float().mean()) < 0.05
    rows = torch.randn(4 * SKETCH_ROWS, 5)
    pieces = sketch_of(rows[: 2 * SKETCH_ROWS], 0) + sketch_of(
        rows[2 * SKETCH_ROWS :], 2 * SKETCH_ROWS
    )
    torch.testing.assert_close(pieces, sketch_of(rows, 0))


def test_two_concepts_that_want_opposite_things_of_one_input_blame_each_other():
    row, first = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    fused = torch.zeros(1, 2)  # the mean of 2 and -2
    inverse = torch.diag(torch.tensor([0.5, 0.0]))
    table = errors_of_concepts([row, row], [asks(first), asks(-first)], fused, inverse)
    torch.testing.assert_close(table, torch.tensor([[0.0, 4.0, 0.0, 4.0], [4.0, 0.0, 0.0, 4.0]]))


def test_what_an_anchor_holds_back_is_not_put_on_another_concept():
    row, delta = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0]])
    away = torch.tensor([[0.0, 1.0]])  # the other concept sees another direction
    inverse = torch.diag(torch.tensor([0.5, 0.5]))  # an anchor as heavy as each concept
    table = errors_of_concepts([row, away], [asks(delta), None], delta / 2, inverse)
    torch.testing.assert_close(table, torch.tensor([[0.0, 0.0, 1.0, 4.0], [0.0, 0.0, 0.0, 0.0]]))


def asks(delta: torch.Tensor) -> LowRank:
    return LowRank(delta, torch.eye(delta.shape[0]))


def solved_stage(count: int, width: int = 24, anchor: float = 0.0, spread: float = 1.0):
    torch.manual_seed(1)
    only = layer("attn2.to_q", 16, width)
    stage = StageSums([only], torch.float64)
    for number in range(count):
        rows = torch.randn(200, width) * spread
        stage.add_concept({only.group: filled(rows)}, {only.site: pair(16, width, number)})
    if anchor:
        stage.add_anchor({only.group: filled(torch.randn(50, width))}, anchor)
    return stage.solve(only, FuseSettings(ridge=0.01))


def test_the_parts_of_a_concepts_loss_add_up_to_the_loss_of_the_layer():
    _, report = solved_stage(3)
    lost = report.errors[:, :-1].sum() / (3 * 200 * 16)
    assert report.after == pytest.approx(lost.item(), rel=0.5)
    asked = report.errors[:, -1].sum() / (3 * 200 * 16)
    assert report.before == pytest.approx(asked.item(), rel=0.5)


def test_an_anchor_shrinks_the_fused_change_and_takes_its_share_of_the_blame():
    free, plain = solved_stage(2)
    held, report = solved_stage(2, anchor=2.0)
    assert held.norm() < 0.8 * free.norm()
    assert conflicts([report])[:, -1].sum() > conflicts([plain])[:, -1].sum() + 0.1


def test_the_report_names_each_concept_and_the_pairs_that_cost_each_other_most():
    _, report = solved_stage(3)
    text = describe_fusion([report], {"solving": 0.1}, ["ann", "bob", "cat"])
    assert "ann: other UNet layers" in text
    assert "ann and bob: " in text
    assert "asks for nothing" not in text


def test_the_chart_has_a_bar_for_every_layer_and_every_concept_as_long_as_its_loss():
    module = "down_blocks.0.attentions.0.proj_in"
    stage = "other UNet layers"
    drawn = {}
    for share in (0.25, 0.75):
        facts = {"loss": {module: [1.0, share]}, "lost": [["ann", {stage: share}]]}
        picture = draw_fusion(facts)[0]
        colour = torch.tensor(ImageColor.getrgb(chart.COLOURS[stage])) / 255
        painted = (picture - colour).abs().amax(-1) < 1e-3
        drawn[share] = [painted[40 : chart.LAYERS].sum(), painted[chart.LAYERS + 10 :].sum()]
        assert picture.shape[1:] == (chart.WIDTH, 3)
    for small, large in zip(drawn[0.25], drawn[0.75], strict=True):
        assert large.item() == pytest.approx(3 * small.item(), rel=0.05)


def test_the_chart_of_a_refined_fusion_has_the_base_model_too_and_one_of_nothing_is_drawn():
    taller = draw_fusion({"lost": [["ann", {}]], "refined": {"ann": [2.0, 1.0], "base": [1, 1]}})
    assert taller.shape[1] > draw_fusion({"lost": [["ann", {}]]}).shape[1]
    assert torch.isfinite(draw_fusion({})).all()


def test_sums_that_are_not_finite_are_refused_by_the_layers_name():
    with pytest.raises(MosError, match=r"middle_block.*not finite"):
        solved_stage(2, spread=float("inf"))


def test_a_delta_of_low_rank_comes_back_whole_and_a_cut_one_loses_what_is_cut():
    known = pair(6, 5, 0).matrix()
    factors, lost = factorise(known, 2)
    torch.testing.assert_close(factors.matrix(), known)
    assert lost < 1e-12
    factors, lost = factorise(torch.diag(torch.tensor([4.0, 3.0])), 1)
    assert lost == pytest.approx(9 / 25)
    torch.testing.assert_close(factors.matrix(), torch.diag(torch.tensor([4.0, 0.0])))
    assert factorise(torch.zeros(3, 4, 1, 1), 2)[0].up.shape == (3, 2, 1, 1)
    assert "36.0%" in describe_truncation({MODULE: lost}, 1)


def test_sums_on_disk_are_the_same_bits_and_damaged_ones_are_taken_again(tmp_path):
    path, gram = tmp_path / "x" / "sums.safetensors", filled(torch.randn(9, 4))
    write_sums(path, {"a.qkv": gram})
    again = read_sums(path)
    assert again is not None
    assert torch.equal(again["a.qkv"].matrix, gram.matrix)
    assert torch.equal(again["a.qkv"].sketch, gram.sketch)
    assert again["a.qkv"].rows == 9
    assert again["a.qkv"].dtype == torch.float64
    assert [file.name for file in path.parent.iterdir()] == ["sums.safetensors"]
    path.write_bytes(path.read_bytes()[:-7])
    assert read_sums(path) is None
    assert read_sums(tmp_path / "none") is None


def test_fourteen_concepts_need_as_much_memory_as_two():
    width, peaks = 320, {}
    layers = [layer(f"attn1.{n}", width, width, "qkv") for n in ("to_q", "to_k", "to_v")]
    rows = torch.randn(8, width)
    for count in (2, 14):
        factors = [{each.site: pair(width, width, i) for each in layers} for i in range(count)]
        with LiveBytes() as memory:
            stage = StageSums(layers, torch.float32)
            for own in factors:
                grams = stage.new_grams()
                for gram in grams.values():
                    gram.add(rows)
                stage.add_concept(grams, own)
            sums = stage.solve(layers[0], FuseSettings(ridge=0.01))
            del sums
        peaks[count] = memory.peak
    assert peaks[2] > 3 * width * width * 8
    assert peaks[14] < 1.05 * peaks[2]


def test_a_prompt_without_a_place_for_the_concept_is_refused():
    for wrong in ({"prompts": ("a cat",)}, {"anchor": -1.0}, {"anchor": 1.0, "anchor_prompts": ()}):
        with pytest.raises(MosError):
            FuseSettings(**wrong).check()
    FuseSettings(prompts=("a {} on a beach", "{}"), anchor=1.0).check()


def test_portions_hold_whole_groups_in_order_and_stay_within_the_limit():
    layers = [layer(f"{i}.{name}", 8, 16, f"{i}.qkv") for i in range(6) for name in "qkv"]
    one = sums_bytes(layers[:3])
    assert one == 8 * (2 * 16 * 16 + 3 * 8 * 16)
    assert sums_bytes(layers) == 6 * one
    for limit, count in ((6 * one, 1), (3 * one, 2), (2.5 * one, 3), (one, 6), (1, 6)):
        made = portions(layers, int(limit))
        assert len(made) == count
        assert [each for portion in made for each in portion] == layers
        assert all(sums_bytes(p) <= limit or len({x.group for x in p}) == 1 for p in made)
    assert portions([], 100) == []


def test_sums_that_were_read_stay_when_their_file_is_overwritten_in_place(tmp_path):
    path, gram = tmp_path / "sums.safetensors", Gram(torch.float32)
    gram.add(torch.randn(9, 64))
    write_sums(path, {"a.qkv": gram})
    again = read_sums(path)
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(size // 4)
        file.write(bytes(size - size // 4))
    assert again is not None
    assert torch.equal(again["a.qkv"].matrix, gram.matrix)
    assert torch.equal(again["a.qkv"].sketch, gram.sketch)
    assert again["a.qkv"].dtype == torch.float32  # of the products: it decides the cutoff
