"""Regions beside nodes that tile, merge, cut or lengthen sequences; compiled models; schedules."""

import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_tomesd import TomePatchModel

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.isolation import cell_members, isolate, isolation_bias
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.patch.regional import hooks
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.missed import in_steps
from mix_of_show.mos_core.patch.regional.self_attention import isolated_attention
from mix_of_show.mos_core.patch.regional.texts import draw_prompts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention, ComposerMaps
from mix_of_show.nodes.sample import RegionalAttention
from support.beside import GN, LEFT, QUIET, RIGHT, TOLERANCE, WHOLE, G, N, P, composed, ksample
from support.golden import relative_error
from support.sampling import encode, sample

# ------------------------------------------------------------- sequences that are no cells


def test_a_map_of_another_size_is_told_by_steps(unet, clip, concepts):
    shrunk = PatchModelAddDownscale.execute(unet, 3, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")[0]
    model, text, log = composed(shrunk, clip, concepts, attention_maps="1/32")
    ksample(model, text, steps=6)
    first = log.steps[0].step
    assert first > 0
    assert any(f"Not led{in_steps(range(first))}: no layer" in note for note in log.notes)


def test_a_report_on_nothing_led_says_so_and_why(unet, clip, concepts):
    tiled = HyperTile.execute(unet, 64, 2, 2, False)[0]
    model, text, log = composed(tiled, clip, concepts)
    before = ComposerMaps.execute(log, {})[2]
    assert before == "Nothing has been sampled with this MODEL yet."
    ksample(model, text, 2, size=(32, 64))
    report = ComposerMaps.execute(log, {})[2]
    assert "None of 2 steps was led" in report
    assert "Not led in steps 1 to 2: no layer has attention maps" in report
    assert "Isolation did not act in" in report


def test_deltas_lie_on_the_cells_of_their_own_layer_or_nowhere(unet, clip, concepts, monkeypatch):
    placed, own = [], hooks.on_tokens

    def note(deltas, site, grid, x, output):
        placed.append((site.path, grid, x.shape))
        return own(deltas, site, grid, x, output)

    monkeypatch.setattr(hooks, "on_tokens", note)
    tiled = HyperTile.execute(unet, 256, 2, 0, False)[0]
    regions = (Region("a <a1> <a2>", box=Box(0, 0, 0.5, 1)),)
    model, text, log = composed(tiled, clip, concepts, regions, **QUIET)
    sample(model, encode(text, "photo"), encode(text, ""), steps=1, cfg=1.0, size=(64, 64))
    assert all(shape[:2] == (1, rows * columns) for _, (rows, columns), shape in placed)
    fine = {grid for path, grid, _ in placed if ".input_blocks.1." in path}
    assert fine == {(64, 64)}
    assert not any(path.endswith(".input_blocks.1.1.transformer_blocks.0.attn1.to_q")
                   for path, *_ in placed)  # fmt: skip
    assert any("The concepts' LoRA did not act in" in note for note in log.notes)


def test_merged_tokens_are_left_alone_and_told(unet, clip):
    told = []
    regions = Regions(128, 128, (Region(P, box=LEFT), Region("lake", box=RIGHT)))
    merged = TomePatchModel.execute(unet, 0.5)[0]
    drawn = draw_prompts(clip, regions)
    model = add_regional_attention(merged, drawn, isolation="on", say=told.append)
    assert torch.isfinite(sample(model, encode(clip, G), encode(clip, GN), steps=1)).all()
    assert any(note.startswith("Isolation did not act in") for note in told)
    told.clear()
    model = add_regional_attention(unet, drawn, isolation="on", say=told.append)
    sample(model, encode(clip, G), encode(clip, GN), steps=1)
    assert told == []


def test_keys_that_another_pack_adds_are_seen_by_every_region():
    regions = [Region("a", box=Box(0, 0, 0.25, 1)), Region("b", box=Box(0.75, 0, 1, 0.5))]
    cells, more = 32, 5
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, cells, 8, generator=generator)
    k, v = (torch.randn(2, cells + more, 8, generator=generator) for _ in range(2))
    groups = isolate(cell_members(regions, 4, 8), "on")
    bias = torch.cat([isolation_bias(groups, cells), torch.zeros(cells, more)], 1)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    found = isolated_attention(groups, q, k, v, {"n_heads": 1, "attn_precision": None})
    torch.testing.assert_close(found, expected)


def test_a_longer_self_attention_is_led_and_keeps_what_was_added(unet, clip, concepts):
    shared = unet.clone()
    shared.set_model_attn1_patch(
        lambda q, k, v, extra: (q, torch.cat([k, -k], 1), torch.cat([v, -v], 1))
    )
    model, text, log = composed(shared, clip, concepts)
    assert torch.isfinite(ksample(model, text, steps=2)).all()
    assert len(log.steps) == 2
    one = Regions(128, 128, (Region("photo of <a1> <a2>", "lowres", box=WHOLE),))
    chain = (WeightedConcept(concepts["a"]),)
    model, text, _ = ComposerAttention.execute(unet, clip, chain, one, **QUIET).args
    c, n = encode(text, G), encode(text, GN)
    alone = sample(model, c, n)
    model, text, log = ComposerAttention.execute(shared, clip, chain, one, **QUIET).args
    assert relative_error(sample(model, c, n), alone) > 1e-3
    assert log.notes == []


@pytest.mark.parametrize("regions", [1, 2])
def test_words_that_another_pack_adds_are_read_in_the_regions_too(regions, unet, clip):
    extra = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))

    def adding(model):
        patched = model.clone()

        def add(n, context, value, options):
            both = torch.cat([context, extra.expand(len(context), -1, -1)], 1)
            return n, both, both

        patched.set_model_attn2_patch(add)
        return patched

    boxes = [WHOLE] if regions == 1 else [Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)]
    layout = Regions(128, 128, tuple(Region(P, N, box=box) for box in boxes))
    model = RegionalAttention.execute(unet, clip, layout)[0]
    found = sample(adding(model), encode(clip, G), encode(clip, GN))
    plain = sample(adding(unet), encode(clip, P), encode(clip, N))
    assert relative_error(found, plain) <= TOLERANCE


# -------------------------------------------------------------------------------- the rest


def test_a_wide_text_that_another_pack_puts_in_is_read_layer_by_layer(unet, clip, concepts):
    from mix_of_show.nodes.apply import ApplyConcepts

    model, text = ApplyConcepts.execute(unet, clip, (WeightedConcept(concepts["a"]),)).args
    prompt = "a <a1> <a2>"
    wide = encode(text, prompt)[0][0]  # what packs for regional prompts keep of a conditioning
    coupled = model.clone()

    def put_in(q, k, v, extra):
        own = wide.expand(len(q), -1, -1)
        return q, own, own

    coupled.set_model_attn2_patch(put_in)
    found = sample(coupled, encode(text, "photo"), encode(text, ""), steps=1)
    plain = sample(model, encode(text, prompt), encode(text, prompt), steps=1)
    assert relative_error(found, plain) <= TOLERANCE


def test_a_negative_prompt_may_name_another_concept(unet, clip, concepts):
    def drawn(negative):
        regions = Region("a <a1> <a2>", negative, box=LEFT), Region("a <b1> <b2>", box=RIGHT)
        model, text, _ = composed(unet, clip, concepts, regions, **QUIET)
        return ksample(model, text, steps=1)

    assert not torch.equal(drawn("<b1>, lowres"), drawn("lowres"))


def test_a_compiled_model_runs_the_regions_exactly_and_is_compiled_afterwards(
    unet, clip, concepts, monkeypatch
):
    """(One block is compiled: tracing all of them takes a minute.)"""
    regions = (Region("a <a1> <a2>", box=LEFT),)
    expected = ksample(*composed(unet, clip, concepts, regions, **QUIET)[:2], steps=1)
    compiled, traced = unet.clone(), []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    set_torch_compile_wrapper(
        compiled, backend=backend, keys=["diffusion_model.middle_block.1.transformer_blocks.0"]
    )
    plain = ksample(compiled, clip, steps=1)
    assert traced
    count = len(traced)
    model, text, _ = composed(compiled, clip, concepts, regions, **QUIET)
    assert torch.equal(ksample(model, text, steps=1), expected)
    assert torch.equal(ksample(compiled, clip, steps=1), plain)
    assert len(traced) == count


@pytest.mark.parametrize("batched", [False, True])
def test_texts_that_change_in_the_middle_of_a_sampling_change_in_the_regions(batched, unet, clip):
    def two_times(first, second):
        (early,) = nodes.ConditioningSetTimestepRange().set_range(encode(clip, first), 0.0, 0.5)
        (late,) = nodes.ConditioningSetTimestepRange().set_range(encode(clip, second), 0.5, 1.0)
        return [*early, *late]

    text = RegionText(two_times(P, "a lake"), encode(clip, N))
    model = add_regional_attention(unet, [Drawn(Region("", box=WHOLE), text)])
    options = {"steps": 4, "batch": 2 if batched else 1}
    found = sample(model, encode(clip, G), encode(clip, GN), **options)
    plain = sample(unet, two_times(P, "a lake"), encode(clip, N), **options)
    assert relative_error(found, plain) <= TOLERANCE


def test_texts_of_lengths_that_have_no_small_multiple_are_refused(unet, clip):
    odd = torch.zeros(1, 128, 32)
    one = Region(P, box=WHOLE)  # without a negative prompt of its own
    model = add_regional_attention(unet, draw_prompts(clip, Regions(128, 128, (one,))))
    with pytest.raises(RegionError, match=r"77.*128|128.*77"):
        sample(model, [[odd, {}]], [[odd, {}]], steps=1)
