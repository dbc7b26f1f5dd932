"""Ring 2: a fusion's kept sums, its anchor, its prompts, and its export as an ordinary LoRA."""

from dataclasses import replace

import comfy.sample
import comfy.sd
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.errors import MosError
from mix_of_show.mos_core.formats.kohya_file import save_kohya
from mix_of_show.mos_core.fuse.low_rank import factorise
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse import plan as module
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.fuse.kept_sums import base_of
from mix_of_show.mos_core.records import WeightedConcept
from support.sampling import draw, encode

QUICK = {"steps": 2, "width": 128, "height": 128, "text_rows": "all tokens"}
KEPT = FuseSettings(reuse_sums=True, ridge=0.01, **QUICK)


def nothing(done, total):
    pass


def draw_tree(model, coder) -> torch.Tensor:
    return draw(model, encode(coder, "a tree"))


@pytest.fixture
def runs(monkeypatch):
    """The names of those whose sampling was really run."""
    names = []

    def counted(model, coder, source, *rest):
        names.append(source.name)
        return original(model, coder, source, *rest)

    original = module.picture_rows
    monkeypatch.setattr(module, "picture_rows", counted)
    return names


def test_one_more_concept_costs_only_its_own_sampling(unet, clip, concepts, tmp_path, runs):
    two = tuple(WeightedConcept(concepts[name]) for name in "ab")
    three = (*two, WeightedConcept(concepts["c"]))
    first, _ = fuse_concepts(unet, clip, two, KEPT, nothing, sums_folder=tmp_path)
    assert len(runs) == 2
    again, _ = fuse_concepts(unet, clip, two, KEPT, nothing, sums_folder=tmp_path)
    assert len(runs) == 2
    for name, delta in {**first.unet, **first.text}.items():
        assert torch.equal({**again.unet, **again.text}[name], delta)
    steps = []
    fuse_concepts(unet, clip, three, KEPT, lambda *at: steps.append(at), sums_folder=tmp_path)
    assert runs[2:] == [concepts["c"].name]
    assert steps[-1][0] == steps[-1][1]


def test_other_settings_another_concept_or_a_patched_model_do_not_get_these_sums(
    unet, clip, concepts, tmp_path, runs
):
    one = (WeightedConcept(concepts["a"]),)
    fuse_concepts(unet, clip, one, KEPT, nothing, sums_folder=tmp_path)
    stronger = (WeightedConcept(concepts["a"], 0.5),)
    for entries, settings in (
        (stronger, KEPT),
        (one, FuseSettings(reuse_sums=True, seed=1, **QUICK)),
        (one, FuseSettings(reuse_sums=True, prompts=("a {}",), **QUICK)),
    ):
        before = len(runs)
        fuse_concepts(unet, clip, entries, settings, nothing, sums_folder=tmp_path)
        assert len(runs) == before + 1
    patched, _ = apply_concepts(unet, clip, (WeightedConcept(concepts["b"]),))
    assert base_of(unet, clip) is not None
    assert base_of(patched, clip) is None
    files = len(list(tmp_path.iterdir()))
    fuse_concepts(unet, clip, one, FuseSettings(**QUICK), nothing, sums_folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == files  # off by default


def test_what_newer_comfyui_puts_on_a_fresh_clip_does_not_count_as_a_patch(unet, clip):
    fresh = clip.clone()
    fresh.patcher.add_object_patch("manual_cast_dtype", torch.float32)
    assert base_of(unet, fresh) == base_of(unet, clip)
    patched = clip.clone()
    patched.patcher.add_object_patch("encode_token_weights", lambda tokens: None)
    assert base_of(unet, patched) is None


def test_an_anchor_keeps_what_the_base_model_does_on_its_prompts(unet, clip, concepts):
    two = tuple(WeightedConcept(concepts[name]) for name in "ab")
    plain = draw_tree(unet, clip)
    errors = []
    for anchor in (0.0, 1.0, 100.0):
        settings = FuseSettings(anchor=anchor, anchor_prompts=("a tree",), ridge=0.001, **QUICK)
        fused, _ = fuse_concepts(unet, clip, two, settings, nothing)
        drawn = draw_tree(*apply_fused(unet, clip, fused))
        errors.append(((drawn - plain).norm() / plain.norm()).item())
    assert errors[2] < 0.3 * errors[0]
    assert errors[2] < errors[1] < errors[0]


def test_many_prompts_are_sampled_a_few_at_a_time_and_all_count(unet, clip, concepts, monkeypatch):
    one, ticks, sampled = (WeightedConcept(concepts["a"]),), [], []

    def note(model, noise, cfg, sampler, sigmas, positive, negative, latent, **rest):
        sampled.append(len(latent))
        return original(model, noise, cfg, sampler, sigmas, positive, negative, latent, **rest)

    original = comfy.sample.sample_custom
    monkeypatch.setattr(comfy.sample, "sample_custom", note)
    prompts = (
        "{}",
        "a {}",
        "a {} on a beach",
        "{} in the snow",
        "a long line about {} " + "x " * 80,
    )
    settings = FuseSettings(prompts=prompts, ridge=0.001, **QUICK)
    every, _ = fuse_concepts(unet, clip, one, settings, lambda *at: ticks.append(at))
    assert sampled == [4, 1]
    fewer = replace(settings, prompts=prompts[:-1])
    without, _ = fuse_concepts(unet, clip, one, fewer, nothing)
    assert all(not torch.equal(every.unet[m], without.unet[m]) for m in without.unet)
    assert ticks[-1][0] == ticks[-1][1]
    assert [done for done, _ in ticks] == list(range(1, len(ticks) + 1))


def test_a_fusion_exported_at_full_rank_is_the_fusion_for_the_stock_lora_loader(
    unet, clip, concepts, tmp_path
):
    two = tuple(WeightedConcept(concepts[name]) for name in "ab")
    fused, _ = fuse_concepts(unet, clip, two, FuseSettings(ridge=0.001, **QUICK), nothing)
    text, unet_factors = (
        {name: factorise(delta, 10_000)[0] for name, delta in part.items()}
        for part in (fused.text, fused.unet)
    )
    path = save_kohya(tmp_path, "lora", text, unet_factors, {})
    lora = comfy.utils.load_torch_file(str(path))
    model, coder = comfy.sd.load_lora_for_models(unet, clip, lora, 1.0, 1.0)
    assert len(model.patches) == len(fused.unet)
    assert len(coder.patcher.patches) == len(fused.text)
    stock = draw_tree(model, coder)
    ours = draw_tree(*apply_fused(unet, clip, fused))
    torch.testing.assert_close(stock, ours, rtol=1e-3, atol=1e-4)


def test_a_concept_that_is_only_an_embedding_fuses_with_others_and_alone(unet, clip, concepts):
    bare = WeightedConcept(concepts["b"].without_deltas())
    settings = FuseSettings(ridge=0.001, **QUICK)
    alone, report = fuse_concepts(unet, clip, (bare,), settings, nothing)
    assert not alone.unet
    assert "asks for nothing" in report
    both, _ = fuse_concepts(unet, clip, (WeightedConcept(concepts["a"]), bare), settings, nothing)
    model, coder = apply_fused(unet, clip, both)
    assert torch.isfinite(draw(model, encode(coder, "<a1> and <b1> <b2>"))).all()


def test_the_same_concept_twice_is_refused(unet, clip, concepts):
    twice = (WeightedConcept(concepts["a"]), WeightedConcept(concepts["a"], 0.5))
    with pytest.raises(MosError, match="<a1>"):
        fuse_concepts(unet, clip, twice, FuseSettings(**QUICK), nothing)
