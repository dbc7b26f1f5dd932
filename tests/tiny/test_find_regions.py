"""Regions From Attention on a tiny model: what its short run sees, and that it leaves no trace."""

import comfy.model_management
import comfy.samplers
import pytest
import torch

from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.find.settings import FindSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.compose.composer import ComposerSettings, apply_composer
from mix_of_show.mos_core.patch.find.find_regions import ShortRun, find_regions, watch_run
from mix_of_show.mos_core.patch.find.mentions import locate_concepts
from mix_of_show.mos_core.patch.find.watch import AttentionWatch, grid_for, mean_attention
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.find import FindRegions
from support.sampling import SIZE, describe, encode, fingerprint, sample

PROMPT = "a <a1> <a2> on the left, <b1> on the right, snow"
RUN = ShortRun(PROMPT, "blurry", seed=3, steps=2)


@pytest.fixture(scope="module")
def chain(concepts):
    return WeightedConcept(concepts["a"]), WeightedConcept(concepts["b"])


def empty(size=SIZE, batch=1):
    return {"samples": torch.zeros(batch, 4, *size)}


def find(unet, clip, chain, size=SIZE, run=RUN, batch=1, **more):
    return find_regions(unet, clip, chain, empty(size, batch), run, FindSettings(), **more)


def masks(found):
    return [region.mask for region in found.regions.regions]


# ------------------------------------------------------------------------- what it gives


def test_every_concept_gets_a_region_with_its_part_of_the_prompt(unet, clip, chain):
    found = find(unet, clip, chain)
    assert [r.concept for r in found.regions.regions] == [e.concept.name for e in chain]
    assert found.regions.regions[0].prompt == "a <a1> <a2> on the left, a <a1> <a2>, snow"
    assert (found.regions.width, found.regions.height) == (128, 128)
    assert len(found.report) >= 2


def test_the_composer_draws_in_what_was_found(unet, clip, chain):
    regions = find(unet, clip, chain).regions
    model, clip, _, _ = apply_composer(unet, clip, chain, regions, ComposerSettings())
    drawn = sample(model, encode(clip, "snow"), encode(clip, ""))
    assert torch.isfinite(drawn).all()


def test_the_same_seed_finds_the_same_whatever_was_found_between(unet, clip, chain):
    first = masks(find(unet, clip, chain))
    other = masks(find(unet, clip, chain, size=(12, 24), run=ShortRun(PROMPT, seed=9, steps=1)))
    assert other[0].shape != first[0].shape
    for one, again in zip(first, masks(find(unet, clip, chain)), strict=True):
        assert torch.equal(one, again)


def test_a_concept_that_is_named_twice_gets_two_regions(unet, clip, chain):
    run = ShortRun("<a1> <a2> and <a1> <a2>", steps=1)
    found = find(unet, clip, chain[:1], run=run)
    assert len(found.regions.regions) == 2
    assert found.report[0].startswith(f"{chain[0].concept.name} (1)")


def test_regions_before_keep_their_prompts_and_others_stay_as_they_are(unet, clip, chain):
    before = Regions(
        256,
        256,
        (
            Region("my <a1> <a2>", box=Box(0, 0, 0.5, 1), weight=0.8),
            Region("a tree", box=Box(0.5, 0, 1, 1)),
        ),
    )
    found = find(unet, clip, chain, before=before).regions
    assert (found.width, found.height) == (256, 256)
    assert [r.prompt for r in found.regions] == ["my <a1> <a2>", "a tree"]
    assert found.regions[0].weight == 0.8
    assert found.regions[1] is before.regions[1]


def test_a_prompt_without_a_concept_is_refused_by_name(unet, clip, chain):
    with pytest.raises(RegionError, match=r"does not name the concept .* Write <b1>"):
        find(unet, clip, chain, run=ShortRun("a <a1> <a2>"))
    with pytest.raises(RegionError, match="no concepts"):
        find(unet, clip, ())


# ------------------------------------------------------------------------- what it reads


def test_attention_is_read_as_the_model_computes_it():
    q, k = torch.randn(5, 2, 4), torch.randn(7, 2, 4)
    plain = torch.einsum("qhd,khd->hqk", q, k) / 2
    torch.testing.assert_close(mean_attention(q, k), plain.softmax(-1).mean(0))


def test_words_stand_where_the_encoding_has_them(unet, clip, chain):
    _, patched = apply_concepts(unet, clip, chain)
    mentions, tokens = locate_concepts(patched, PROMPT, chain)
    assert tokens == 77
    assert [m.positions for m in mentions] == [(2, 3), (8,)]


def test_the_maps_are_those_of_the_positive_prompt_alone(unet, clip, chain):
    model, patched = apply_concepts(unet, clip, chain)
    alone = watch_run(model, patched, empty(), ShortRun(PROMPT, steps=1, cfg=1.0), [(2, 3)], 77)[1]
    guided = watch_run(model, patched, empty(), ShortRun(PROMPT, steps=1, cfg=4.0), [(2, 3)], 77)[1]
    torch.testing.assert_close(alone.words, guided.words, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone.own.sum(1), torch.ones(256))


@pytest.mark.parametrize(
    ("latent", "grid"),
    [((64, 64), (32, 32)), ((16, 48), (16, 48)), ((128, 128), (64, 64)), ((192, 192), (48, 48))],
)
def test_maps_are_as_fine_as_the_picture_allows(latent, grid):
    assert grid_for(*latent) == grid


# ------------------------------------------------------------------------- manners


def test_watching_changes_nothing_of_the_drawing(unet, clip, chain):
    model, patched = apply_concepts(unet, clip, chain)
    run = ShortRun(PROMPT, "blurry", seed=3, steps=2, cfg=7.5)
    drawn, _ = watch_run(model, patched, empty(), run, [(2, 3)], 77)
    plain = sample(model, encode(patched, PROMPT), encode(patched, "blurry"), seed=3)
    assert torch.equal(drawn, plain)


def test_model_and_clip_stay_as_they_were(unet, clip, chain):
    before = describe(unet), describe(clip.patcher), fingerprint(unet), fingerprint(clip.patcher)
    find(unet, clip, chain)
    assert before == (
        describe(unet),
        describe(clip.patcher),
        fingerprint(unet),
        fingerprint(clip.patcher),
    )


def test_another_packs_override_is_still_asked(unet, clip, chain):
    asked = []

    def other(func, *args, **kwargs):
        asked.append(1)
        return func(*args, **kwargs)

    model = unet.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = other
    find(model, clip, chain)
    assert len(asked) > 10
    assert model.model_options["transformer_options"]["optimized_attention_override"] is other


def test_a_cancel_ends_it_at_once(unet, clip, chain, monkeypatch):
    seen = []
    note = AttentionWatch.note

    def interrupt(self, *args):
        seen.append(1)
        comfy.model_management.interrupt_current_processing()
        return note(self, *args)

    monkeypatch.setattr(AttentionWatch, "note", interrupt)
    before = describe(unet)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        find(unet, clip, chain, run=ShortRun(PROMPT, steps=20))
    comfy.model_management.interrupt_current_processing(False)
    assert len(seen) <= 64  # one call of the model: 16 layers, two attentions, two halves
    assert describe(unet) == before


def test_a_model_without_such_attention_is_refused(unet, clip, chain, monkeypatch):
    monkeypatch.setattr(AttentionWatch, "note", lambda *args: None)
    with pytest.raises(RegionError, match="cannot be read"):
        find(unet, clip, chain)


# ------------------------------------------------------------------------- the node


def test_the_node_gives_regions_pictures_and_a_report(unet, clip, chain):
    output = FindRegions.execute(unet, clip, chain, PROMPT, "", empty(batch=2), 0, steps=1)
    regions, picture, report = output.args
    assert len(regions.regions) == 2
    assert picture.shape == (3, 128, 128, 3)
    assert chain[0].concept.name in report
