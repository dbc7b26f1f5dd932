"""Regions beside ComfyUI's own nodes that reorder, cache, tile, merge or lengthen."""

import comfy.samplers
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper
from comfy_extras.nodes_custom_sampler import (
    BasicScheduler,
    CFGGuider,
    DualCFGGuider,
    KSamplerSelect,
    RandomNoise,
    SamplerCustomAdvanced,
)
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from comfy_extras.nodes_hypertile import HyperTile
from comfy_extras.nodes_model_advanced import ModelSamplingContinuousEDM, ModelSamplingDiscrete
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_pag import PerturbedAttentionGuidance
from comfy_extras.nodes_perpneg import PerpNeg, PerpNegGuider
from comfy_extras.nodes_sag import SelfAttentionGuidance
from comfy_extras.nodes_tomesd import TomePatchModel

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.isolation import cell_members, isolate, isolation_bias
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.patch.regional import hooks
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.missed import in_steps
from mix_of_show.mos_core.patch.regional.roles import NEGATIVE, OTHER, POSITIVE, role_of
from mix_of_show.mos_core.patch.regional.self_attention import isolated_attention
from mix_of_show.mos_core.patch.regional.texts import draw_prompts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention, ComposerMaps
from mix_of_show.nodes.sample import RegionalAttention
from support.golden import relative_error
from support.sampling import encode, sample

P, N, G, GN = "a red car near the forest", "lowres, bad anatomy", "photo", "blurry"
LEFT, RIGHT, WHOLE = Box(0, 0, 0.4, 1), Box(0.6, 0, 1, 1), Box(0, 0, 1, 1)
TOLERANCE = 2e-5
QUIET = {"guidance_steps": 0, "reinitialise": False}


def whole(unet, clip):
    """Over the whole canvas a region is the plain prompt (test_regional.py says so)."""
    return RegionalAttention.execute(unet, clip, Regions(128, 128, (Region(P, N, box=WHOLE),)))[0]


def composed(unet, clip, concepts, regions=None, **options):
    """(MODEL, CLIP, log) with a concept at each side."""
    two = (Region("a <a1> <a2>", box=LEFT), Region("a <b1> <b2>", box=RIGHT))
    chain = tuple(WeightedConcept(concepts[name]) for name in "ab")
    layout = Regions(256, 128, regions or two)
    return ComposerAttention.execute(unet, clip, chain, layout, **options).args


def ksample(model, clip, steps=4, sampler="euler", scheduler="normal", cfg=4.0, size=(16, 32),
            **rest):  # fmt: skip
    latent = {"samples": torch.full((1, 4, *size), 0.3)}
    positive, negative = encode(clip, "photo"), encode(clip, "")
    (found,) = nodes.common_ksampler(
        model, 0, steps, cfg, sampler, scheduler, positive, negative, latent, **rest
    )
    return found["samples"]


def custom(model, guider):
    sigmas = BasicScheduler.execute(model, "normal", 2, 1.0)[0]
    return SamplerCustomAdvanced.execute(
        RandomNoise.execute(3)[0],
        guider,
        KSamplerSelect.execute("euler")[0],
        sigmas,
        {"samples": torch.zeros(1, 4, 16, 16)},
    )[0]["samples"]


# --------------------------------------------------------------- which prompt a pass draws


@pytest.mark.parametrize("style", ["regular", "nested"])
def test_two_positive_prompts_both_draw_the_regions_prompt(style, unet, clip):
    def run(model, first, second, negative):
        texts = (encode(clip, text) for text in (first, second, negative))
        return custom(model, DualCFGGuider.execute(model, *texts, 5.0, 3.0, style)[0])

    found = run(whole(unet, clip), G, G, GN)
    assert relative_error(found, run(unet, P, P, N)) <= TOLERANCE


def test_a_pass_with_an_empty_prompt_of_its_own_draws_that_in_the_regions_too(unet, clip):
    def guided(model, positive, negative):
        texts = (encode(clip, text) for text in (positive, negative, ""))
        return custom(model, PerpNegGuider.execute(model, *texts, 5.0, 1.0)[0])

    found = guided(whole(unet, clip), G, GN)
    assert relative_error(found, guided(unet, P, N)) <= TOLERANCE

    def patched(model, positive, negative):
        model = PerpNeg.execute(model, encode(clip, ""), 1.0)[0]
        return sample(model, encode(clip, positive), encode(clip, negative))

    found = patched(whole(unet, clip), G, GN)
    assert relative_error(found, patched(unet, P, N)) <= TOLERANCE


@pytest.mark.parametrize(
    "node",
    [
        lambda model: SelfAttentionGuidance.execute(model, 0.5, 2.0)[0],
        lambda model: PerturbedAttentionGuidance.execute(model, 3.0)[0],
    ],
    ids=["self-attention guidance", "perturbed attention"],
)
def test_post_cfg_functions_that_run_a_prompt_again_draw_it_in_the_regions(node, unet, clip):
    found = sample(node(whole(unet, clip)), encode(clip, G), encode(clip, GN))
    plain = sample(node(unet), encode(clip, P), encode(clip, N))
    assert relative_error(found, plain) <= TOLERANCE


class Backwards(comfy.samplers.CFGGuider):
    """A guider of another pack that runs its positive prompt last."""

    def predict_noise(self, x, timestep, model_options=None, seed=None):
        conds = [self.conds[name] for name in ("negative", "positive")]
        negative, positive = comfy.samplers.calc_cond_batch(
            self.inner_model, conds, x, timestep, model_options or {}
        )
        return negative + 4.0 * (positive - negative)


def test_a_guider_may_run_its_prompts_in_any_order(unet, clip):
    def run(kind, model, positive, negative):
        guider = kind(model)
        guider.set_conds(encode(clip, positive), encode(clip, negative))
        guider.set_cfg(4.0)
        return custom(model, guider)

    found = run(Backwards, whole(unet, clip), G, GN)
    assert relative_error(found, run(comfy.samplers.CFGGuider, unet, P, N)) <= TOLERANCE


def test_areas_whose_negative_is_copied_from_another_keep_both_roles(unet, clip):
    def areas(prompt):
        (left,) = nodes.ConditioningSetArea().append(encode(clip, prompt), 64, 128, 0, 0, 1.0)
        return [*left, *encode(clip, prompt)]

    found = sample(whole(unet, clip), areas(G), encode(clip, GN))
    assert relative_error(found, sample(unet, areas(P), encode(clip, N))) <= TOLERANCE


def test_roles_by_a_guiders_names():
    assert role_of("middle", ["positive", "middle", "negative"]) == POSITIVE
    assert role_of("negative", ["positive", "negative"]) == NEGATIVE
    assert role_of("empty_negative_prompt", ["positive", "empty_negative_prompt"]) == OTHER
    assert role_of("mine", ["mine", "yours"]) == POSITIVE
    assert role_of("yours", ["mine", "yours"]) == OTHER


def test_the_conditionings_of_a_guider_are_not_marked_for_good(unet, clip):
    model = whole(unet, clip)
    guider = CFGGuider.execute(model, encode(clip, G), encode(clip, GN), 4.0)[0]
    custom(model, guider)
    for entries in guider.original_conds.values():
        assert all(not entry.get("model_conds") for entry in entries)


# ------------------------------------------------------------------------- model samplings


@pytest.mark.parametrize(
    "node",
    [
        lambda model: ModelSamplingDiscrete().patch(model, "lcm", False)[0],
        lambda model: ModelSamplingDiscrete().patch(model, "eps", True)[0],
        lambda model: ModelSamplingContinuousEDM().patch(model, "v_prediction", 120.0, 0.002)[0],
    ],
    ids=["lcm", "zsnr", "continuous"],
)
def test_a_start_in_the_middle_is_known_in_every_parametrisation(node, unet, clip, concepts):
    model, text, log = composed(node(unet), clip, concepts)
    ksample(model, text, 2, "euler", "sgm_uniform", cfg=1.0, denoise=0.3)
    assert any("Re-initialisation is left out" in note for note in log.notes)
    ksample(model, text, 2, "euler", "sgm_uniform", cfg=1.0)
    assert not any("Re-initialisation" in note for note in log.notes)


# ---------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_caches_of_steps_do_not_see_the_passes_that_lead_the_latent(node, unet, clip, concepts):
    cached = node.execute(unet, 0.2, 0.15, 0.95, False)[0]
    model, text, log = composed(cached, clip, concepts)
    assert torch.isfinite(ksample(model, text, steps=6)).all()
    assert len(log.steps) == 6


def test_other_packs_wrappers_run_once_a_step_whether_the_latent_is_led_or_not(
    unet, clip, concepts
):
    kinds = comfy.patcher_extension.WrappersMP
    counted = {}

    def counting(kind):
        def wrapper(executor, *args, **kwargs):
            counted[kind] = counted.get(kind, 0) + 1
            return executor(*args, **kwargs)

        return wrapper

    def run(**options):
        counted.clear()
        model, text, _ = composed(unet, clip, concepts, **options)
        for kind in (kinds.CALC_COND_BATCH, kinds.APPLY_MODEL, kinds.DIFFUSION_MODEL):
            model.add_wrapper_with_key(kind, "counting", counting(kind))

        def note(apply_model, arguments):
            counted["function"] = counted.get("function", 0) + 1
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        model.set_model_unet_function_wrapper(note)
        ksample(model, text, steps=3)
        return dict(counted)

    led = run()
    assert set(led.values()) == {3}
    assert led == run(**QUIET)


def test_noise_of_another_packs_patch_is_not_used_up_by_the_passes_that_lead(unet, clip, concepts):
    drawn = []

    def noisy(n, context, value, extra):
        if extra["block"] == ("middle", 0):
            drawn.append(torch.rand(()).item())
        return n, context, value

    def run(**options):
        drawn.clear()
        model, text, _ = composed(unet, clip, concepts, **options)
        model.set_model_attn1_patch(noisy)
        torch.manual_seed(3)
        ksample(model, text, steps=2)
        return list(drawn)

    led, plain = run(reinitialise=False), run(**QUIET)
    assert len(led) == 4
    assert led[1::2] == plain  # (before each step, one that leads)


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
