"""Ring 2: refinement of a fusion, end to end, on ComfyUI's own classes."""

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.errors import MosError
from mix_of_show.mos_core.formats.fused_file import read_fused, save_fused
from mix_of_show.mos_core.fuse import refine
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse import refine as refine_fusion
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.nodes.fuse import FuseConcepts
from support.sampling import draw, encode
from support.tiny_models import golden_unet

QUICK = {
    "steps": 2,
    "width": 128,
    "height": 128,
    "text_rows": "all tokens",
    "prompts": ("photo of a {}",),
    "anchor_prompts": ("a tree",),
}
REFINED = FuseSettings(refine_steps=6, ridge=0.02, **QUICK)


def nothing(done, total):
    pass


@pytest.fixture(autouse=True, scope="module")
def few_rows():
    """Enough to see that it learns."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (refine, refine_fusion):
            patch.setattr(module, "BATCH", 3)
        patch.setattr(refine, "CHECKS", 4)
        yield


def two_of(concepts):
    return tuple(WeightedConcept(concepts[name]) for name in "ab")


def prediction(model, coder, prompt: str) -> torch.Tensor:
    """The model's noise for a latent that the fusion has not seen."""
    cond = coder.encode_from_tokens_scheduled(coder.tokenize(prompt))[0][0]
    comfy.model_management.load_models_gpu([model])
    options = {"wrappers": {k: dict(v) for k, v in model.wrappers.items()}}
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([601.0])
    return model.model.diffusion_model(x, t, context=cond, transformer_options=options)


def error_of(unet, clip, entry, fused) -> float:
    """Of the fused model's noise against the concept's own."""
    prompt = f"photo of a {entry.concept.trigger_words}"
    own = prediction(*apply_concepts(unet, clip, (entry,)), prompt)
    return (prediction(*apply_fused(unet, clip, fused), prompt) - own).norm().item()


@pytest.fixture(scope="module")
def refined(unet, clip, concepts, few_rows):
    with torch.inference_mode():
        return fuse_concepts(unet, clip, two_of(concepts), REFINED, nothing)


def test_refinement_brings_the_predicted_noise_nearer_to_each_concepts_own(
    unet, clip, concepts, refined
):
    plain, report = fuse_concepts(
        unet, clip, two_of(concepts), FuseSettings(ridge=0.02, **QUICK), nothing
    )
    assert "refinement" not in report
    assert "refinement" in refined[1]
    errors = refined[0].metadata["refined"]
    assert set(errors) == {"edlora_a", "edlora_b", "the base model"}
    assert all(after < 0.9 * before for before, after in errors.values()), errors
    now, then = (
        sum(error_of(unet, clip, entry, fused) for entry in two_of(concepts))
        for fused in (refined[0], plain)
    )
    assert now < then
    assert all(torch.equal(delta, refined[0].text[name]) for name, delta in plain.text.items())


def test_one_concept_that_is_fused_exactly_stays_that_concept(unet, clip, concepts):
    one = (WeightedConcept(concepts["a"], 0.8, 0.9),)
    settings = FuseSettings(refine_steps=2, **QUICK | {"steps": 20})
    fused, _ = fuse_concepts(unet, clip, one, settings, nothing)
    silent = (WeightedConcept(concepts["a"], 0, 0),)
    prompt = "photo of a <a1> <a2>"
    own = prediction(*apply_concepts(unet, clip, one), prompt)
    change = (prediction(*apply_concepts(unet, clip, silent), prompt) - own).norm()
    assert error_of(unet, clip, one[0], fused) <= 1e-3 * change


def test_the_order_of_the_concepts_does_not_matter(unet, clip, concepts):
    settings = FuseSettings(refine_steps=2, ridge=0.02, reuse_sums=True, **QUICK)
    one, other = (
        apply_fused(unet, clip, fuse_concepts(unet, clip, entries, settings, nothing)[0])
        for entries in (two_of(concepts), two_of(concepts)[::-1])
    )
    for prompt in ("photo of a <a1> <a2>", "photo of a <b1> <b2>"):
        first, second = prediction(*one, prompt), prediction(*other, prompt)
        assert (first - second).norm() <= 1e-3 * first.norm()


def test_a_refined_fusion_is_saved_and_loaded_bit_identical_and_repeatable(
    unet, clip, concepts, refined, tmp_path
):
    again = read_fused(save_fused(refined[0], tmp_path, "two"))
    assert again.metadata == refined[0].metadata
    twice, _ = fuse_concepts(unet, clip, two_of(concepts), REFINED, nothing)
    for name, delta in refined[0].unet.items():
        assert torch.equal(again.unet[name], delta)
        assert torch.equal(twice.unet[name], delta)


@pytest.mark.parametrize("at", ["refining: drawing", "checking", "refining: step 3 of 18"])
def test_cancelling_a_refinement_leaves_everything_as_it_was(unet, clip, concepts, at):
    said, ticks = [], []

    def cancel(text):
        said.append(text)
        if text.startswith(at):
            raise comfy.model_management.InterruptProcessingException

    comfy.model_management.unload_all_models()
    before = {k: v.clone() for k, v in unet.model.state_dict().items()}
    asking = [p.requires_grad for p in unet.model.parameters()]
    modes = torch.is_inference_mode_enabled(), torch.is_grad_enabled()
    training = getattr(comfy.model_management, "in_training", None)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        fuse_concepts(
            unet, clip, two_of(concepts), REFINED, lambda *a: ticks.append(a), on_text=cancel
        )
    assert said[-1].startswith(at)
    comfy.model_management.unload_all_models()
    for root in (unet.model, clip.cond_stage_model):
        assert not any(m._forward_pre_hooks or m._forward_hooks for m in root.modules())
    assert all(torch.equal(v, before[k]) for k, v in unet.model.state_dict().items())
    assert asking == [p.requires_grad for p in unet.model.parameters()]
    assert modes == (torch.is_inference_mode_enabled(), torch.is_grad_enabled())
    assert training == getattr(comfy.model_management, "in_training", None)


def test_progress_counts_every_step_of_a_refinement(unet, clip, concepts):
    ticks = []
    settings = FuseSettings(
        refine_steps=3, ridge=0.02, anchor=0.5, **QUICK | {"anchor_prompts": ("a tree", "a house")}
    )
    _, report = fuse_concepts(
        unet, clip, two_of(concepts), settings, lambda *now: ticks.append(now)
    )
    assert [done for done, _ in ticks] == list(range(1, len(ticks) + 1))
    assert ticks[-1][0] == ticks[-1][1]
    assert "the base model: " in report


def test_an_anchor_keeps_a_refined_fusion_nearer_to_the_base_model(unet, clip, concepts, refined):
    settings = FuseSettings(refine_steps=6, ridge=0.02, anchor=20.0, **QUICK)
    held, _ = fuse_concepts(unet, clip, two_of(concepts), settings, nothing)
    plain = draw(unet, encode(clip, "a tree"))
    errors = [
        (draw(model, encode(coder, "a tree")) - plain).norm().item()
        for model, coder in (apply_fused(unet, clip, f) for f in (held, refined[0]))
    ]
    assert errors[0] < errors[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_half_precision_is_refined_as_well(clip, concepts, dtype):
    half = golden_unet(dtype=dtype)
    before = {k: v.clone() for k, v in half.model.state_dict().items()}
    fused, _ = fuse_concepts(half, clip, two_of(concepts), REFINED, nothing)
    errors = fused.metadata["refined"].values()
    assert sum(after for _, after in errors) < 0.95 * sum(before for before, _ in errors)
    comfy.model_management.unload_all_models()
    assert all(torch.equal(v, before[k]) for k, v in half.model.state_dict().items())


def test_recomputing_activations_as_on_a_gpu_changes_nothing(
    unet, clip, concepts, refined, monkeypatch
):
    entered, original = [], refine_fusion.checkpointed
    monkeypatch.setattr(refine_fusion, "checkpointed", lambda *a: entered.append(a) or original(*a))
    monkeypatch.setattr(refine_fusion.comfy.model_management, "is_device_cpu", lambda device: False)
    fused, _ = fuse_concepts(unet, clip, two_of(concepts), REFINED, nothing)
    assert entered
    for name, (before, after) in refined[0].metadata["refined"].items():
        assert fused.metadata["refined"][name] == pytest.approx([before, after], rel=0.02)


def test_the_node_gives_models_a_fusion_a_report_and_a_chart(unet, clip, concepts):
    node = FuseConcepts.execute(
        unet,
        clip,
        two_of(concepts),
        solver="exact",
        steps=1,
        width=128,
        height=128,
        seed=0,
        ridge=0.02,
        text_rows="all tokens",
        prompts="a {}\n",
        anchor_prompts="a tree",
        refine_steps=1,
    )
    model, coder, fused, report, chart = node.args
    assert fused.metadata["refined"].keys() == {"edlora_a", "edlora_b", "the base model"}
    assert "the base model: " in report
    assert chart.shape[0] == 1
    assert torch.isfinite(prediction(model, coder, "a <a1> <a2>")).all()


def test_refine_steps_out_of_range_are_refused():
    with pytest.raises(MosError, match="refine_steps"):
        FuseSettings(refine_steps=-1).check()


def test_without_prompts_of_ones_own_a_refinement_shows_concepts_in_many_ways():
    settings = FuseSettings()
    assert len(settings.refine_prompts) > len(settings.picture_prompts)
    assert all("{}" in prompt for prompt in settings.refine_prompts)
    assert FuseSettings(prompts=("a {}",)).refine_prompts == ("a {}",)
    assert len(settings.prior_prompts) > 1
    assert FuseSettings(anchor_prompts=("a fox",)).prior_prompts == ("a fox",)
