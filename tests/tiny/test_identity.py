"""What must not change: the base model at strength 0, the inputs of a node, a run after a run."""

import comfy.conds
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_clip, apply_to_model
from mix_of_show.mos_core.patch.text.layerwise_model import (
    LayerwiseText,
    mark_conditioning,
    with_first_patch,
)
from mix_of_show.mos_core.records import WeightedConcept
from support.golden import CONCEPTS, relative_error
from support.identity import (
    PROMPT,
    draw,
    entry,  # noqa: F401 (fixtures)
    factors,
)
from support.sampling import describe, encode, fingerprint, sample
from support.sdxl_models import tiny_sdxl_clip
from support.tiny_models import SD15_UNET, WIDTH, empty_unet

# ------------------------------------------------------------------------------ identity


@pytest.mark.parametrize("name", CONCEPTS)
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_strength_0_and_no_concept_token_is_the_base_model_bit_for_bit(
    name, size, unet, clip, concepts
):
    steps = {"patched": [], "base": []}

    def run(which, model, clip):
        model = model.clone()
        model.set_model_sampler_post_cfg_function(
            lambda args: steps[which].append(args["denoised"].clone()) or args["denoised"]
        )
        return draw(model, clip, "a red car near a lake", size=size)

    patched = apply_concepts(unet, clip, (WeightedConcept(concepts[name], 0.0, 0.0),))
    assert torch.equal(run("patched", *patched), run("base", unet, clip))
    assert len(steps["base"]) == 2
    assert all(torch.equal(a, b) for a, b in zip(*steps.values(), strict=True))


def test_strength_0_adds_no_weight_patches(unet, clip, concepts):
    model, knowing = apply_concepts(unet, clip, (WeightedConcept(concepts["v"], 0.0, 0.0),))
    assert model.patches == {}
    assert knowing.patcher.patches == {}


def test_no_concepts_at_all_hand_the_inputs_on(unet, clip):
    assert apply_concepts(unet, clip, ()) == (unet, clip)


def test_strength_0_with_a_concept_token_is_the_embedding_alone(unet, clip, concepts):
    silent = (WeightedConcept(concepts["a"], 0.0, 0.0),)
    bare = build_concept("a", concepts["a"].embeddings, {}, {})
    found = draw(*apply_concepts(unet, clip, silent))
    assert torch.equal(found, draw(*apply_concepts(unet, clip, (WeightedConcept(bare, 1.0, 1.0),))))
    assert relative_error(found, draw(unet, clip)) > 1e-3


def test_two_runs_are_equal(unet, clip, entry):
    first = draw(*apply_concepts(unet, clip, entry))
    assert torch.equal(draw(*apply_concepts(unet, clip, entry)), first)


def test_the_model_and_the_text_strength_are_two_strengths(unet, clip, concepts):
    def run(model_strength, clip_strength):
        entry = WeightedConcept(concepts["a"], model_strength, clip_strength)
        return draw(*apply_concepts(unet, clip, (entry,)), steps=1)

    results = [run(0, 0), run(1, 0), run(0, 1), run(1, 1)]
    for i, a in enumerate(results):
        assert all(relative_error(a, b) > 1e-3 for b in results[i + 1 :])


# ------------------------------------------------------------------------------- manners


@pytest.fixture
def as_before(unet, clip):
    """After the test, the input MODEL and CLIP must be what they were."""
    patchers = (unet, clip.patcher)
    before = [(fingerprint(p), describe(p), list(p.model._forward_hooks)) for p in patchers]
    tokenizer = clip.tokenizer
    yield
    for patcher, (weights, rest, hooks) in zip(patchers, before, strict=True):
        assert fingerprint(patcher) == weights
        assert describe(patcher) == rest
        assert list(patcher.model._forward_hooks) == hooks
    assert clip.tokenizer is tokenizer


@pytest.mark.usefixtures("as_before")
def test_a_run_leaves_the_inputs_as_they_were(unet, clip, entry):
    model, knowing = apply_concepts(unet, clip, entry)
    assert fingerprint(model) != fingerprint(unet)
    draw(model, knowing)


@pytest.mark.usefixtures("as_before")
def test_an_interrupted_run_leaves_everything_as_it_was(unet, clip, entry):
    model, knowing = apply_concepts(unet, clip, entry)
    before = fingerprint(model), describe(model), describe(knowing.patcher)
    expected = draw(model, knowing)
    calls = []

    def interrupt(args):
        calls.append(1)
        comfy.model_management.interrupt_current_processing(True)
        return args["denoised"]

    interrupted = model.clone()
    interrupted.set_model_sampler_post_cfg_function(interrupt)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw(interrupted, knowing, steps=3)
    assert len(calls) == 1
    assert (fingerprint(model), describe(model), describe(knowing.patcher)) == before
    assert torch.equal(draw(model, knowing), expected)


@pytest.mark.usefixtures("as_before")
def test_a_refused_run_leaves_everything_as_it_was(unet, clip, entry):
    _, knowing = apply_concepts(unet, clip, entry)
    with pytest.raises(ArchitectureError):
        draw(unet, knowing)
    draw(unet, clip, "a lake")


def test_a_conditioning_is_not_changed_by_sampling(unet, clip, entry):
    model, knowing = apply_concepts(unet, clip, entry)
    ((cond, extras),) = conditioning = encode(knowing, PROMPT)
    copy, keys, entries = cond.clone(), list(extras), dict(extras["model_conds"])
    sample(model, conditioning, conditioning)
    assert torch.equal(cond, copy)
    assert list(extras) == keys
    assert extras["model_conds"] == entries


def test_taking_the_mark_off_leaves_the_conditioning_entry_as_it_is():
    text = comfy.conds.CONDCrossAttn(torch.randn(1, 77, len(SD15.layers) * WIDTH))
    inner = {"c_crossattn": text, **mark_conditioning(len(SD15.layers))["model_conds"]}
    entry = {"model_conds": dict(inner), "control": object(), "uuid": 1}
    ready = LayerwiseText(SD15.layers, WIDTH).unmark(entry)
    assert entry["model_conds"] == inner
    assert list(ready["model_conds"]) == ["c_crossattn", "crossattn_controlnet"]
    assert ready["model_conds"]["c_crossattn"] is text
    assert (ready["control"], ready["uuid"]) == (entry["control"], 1)


def test_a_patch_put_first_leaves_the_options_as_they_are():
    theirs, ours = object(), object()
    options = {"patches": {"attn2_patch": [theirs], "attn1_patch": [theirs]}, "block": 3}
    found = with_first_patch(options, "attn2_patch", ours)
    assert options == {"patches": {"attn2_patch": [theirs], "attn1_patch": [theirs]}, "block": 3}
    assert found == {
        "patches": {"attn2_patch": [ours, theirs], "attn1_patch": [theirs]},
        "block": 3,
    }
    assert with_first_patch({}, "attn2_patch", ours) == {"patches": {"attn2_patch": [ours]}}


@pytest.mark.usefixtures("as_before")
def test_clones_of_clones_run_side_by_side(unet, clip, concepts):
    a = apply_concepts(unet, clip, (WeightedConcept(concepts["a"], 1.0, 1.0),))
    b = apply_concepts(unet, clip, (WeightedConcept(concepts["b"], 1.0, 1.0),))
    first = draw(*a), draw(*b, "<b1> <b2>"), draw(unet, clip, "lake")
    second = draw(a[0].clone(), a[1].clone()), draw(*b, "<b1> <b2>"), draw(unet, clip, "lake")
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


# ----------------------------------------------------- concepts and models that do not fit


def made_up(rows=16, width=WIDTH, unet=None, text=None):
    return build_concept("other", {"<o1>": torch.zeros(rows, width)}, text or {}, unet or {})


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (made_up(rows=70), r"'other' was made for sdxl \(70 .*\), this MODEL is sd15 \(16 "),
        (made_up(width=48), "embeddings of 'other' are 48 wide, the text of this MODEL is 32"),
        (
            made_up(unet=factors("mid_block.attentions.0.transformer_blocks.0.ff.net.2", 64, 256)),
            "'unet.mid_block.*ff.net.2' is 32 x 128 here, 64 x 256",
        ),
        (
            made_up(unet=factors("mid_block.attentions.0.proj_in", 16, 32)),
            "'unet.mid_block.*proj_in' is 32 x 32 here, 16 x 32",
        ),
    ],
)
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_concept_for_another_model_is_refused(strength, concept, message, unet):
    with pytest.raises(ArchitectureError, match=message):
        apply_to_model(unet, (WeightedConcept(concept, strength, strength),))


@pytest.mark.parametrize(
    ("concept", "message"),
    [
        (made_up(rows=70), r"made for sdxl \(70 .*\), this CLIP is sd15"),
        (made_up(width=48), "are 48 wide, the text of this CLIP is 32 wide"),
        (
            made_up(text=factors("text_model.encoder.layers.0.mlp.fc1", 48, 32)),
            "'text_encoder.text_model.*fc1' is 64 x 32 here, 48 x 32",
        ),
        (
            made_up(text=factors("text_model.encoder.layers.11.mlp.fc1", 64, 32)),
            "'text_encoder.text_model.encoder.layers.11.mlp.fc1', which this model does not have",
        ),
    ],
)
def test_a_concept_for_another_text_encoder_is_refused(concept, message, clip):
    with pytest.raises(ArchitectureError, match=message):
        apply_to_clip(clip, (WeightedConcept(concept),))


def test_a_clip_that_is_not_sd15s_is_refused(concepts):
    with pytest.raises(ArchitectureError, match=r"made for sd15 .*, this CLIP is sdxl"):
        apply_to_clip(tiny_sdxl_clip(), (WeightedConcept(concepts["a"]),))


def test_a_unet_with_other_layers_is_refused(concepts):
    model = empty_unet(**{**SD15_UNET, "transformer_depth": [1, 1, 1, 1, 0, 0, 0, 0]})
    with pytest.raises(ArchitectureError, match="14 cross-attention layers"):
        apply_to_model(model, (WeightedConcept(concepts["a"]),))


def test_deltas_that_comfyui_does_not_take_are_an_error_and_not_silence(
    unet, concepts, monkeypatch
):
    monkeypatch.setattr(comfy.lora, "load_lora", lambda *args, **kwargs: {})
    with pytest.raises(ArchitectureError, match=r"only 0 of 128 LoRA layers of 'edlora_a'"):
        apply_to_model(unet, (WeightedConcept(concepts["a"]),))
