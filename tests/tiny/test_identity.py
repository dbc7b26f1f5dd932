"""What must not change: the base model at strength 0, the inputs of a node, a run after a run."""

import comfy.conds
import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfy_api.torch_helpers import set_torch_compile_wrapper

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families.unet import SD15, comfy_text_key, comfy_unet_key
from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_clip, apply_to_model
from mix_of_show.mos_core.patch.text.layerwise_model import (
    LayerwiseText,
    mark_conditioning,
    with_first_patch,
)
from mix_of_show.mos_core.records import WeightedConcept
from support.golden import CONCEPTS, relative_error
from support.oracle import small_lora
from support.sampling import describe, encode, fingerprint, sample
from support.sdxl_models import tiny_sdxl_clip
from support.tiny_models import SD15_UNET, WIDTH, empty_unet, golden_unet

PROMPT, NEGATIVE = "photo of a <a1> <a2>, near a lake", "lowres, bad anatomy"


def draw(model, clip, positive=PROMPT, **options):
    return sample(model, encode(clip, positive), encode(clip, NEGATIVE), **options)


@pytest.fixture
def entry(concepts):
    return (WeightedConcept(concepts["a"], 0.9, 0.8),)


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


# ------------------------------------------------------------------------------- weights


def merged_by_hand(weight, pair, strength):
    return weight + strength * (pair.up.flatten(1) @ pair.down.flatten(1)).reshape(weight.shape)


@pytest.mark.parametrize("name", ["a", "v"])
def test_the_weights_are_w0_plus_strength_times_up_down(name, unet, clip, concepts):
    concept = concepts[name]
    model, knowing = apply_concepts(unet, clip, (WeightedConcept(concept, 0.7, -0.4),))
    for patcher, base, factors, strength, key_of in (
        (model, unet, concept.unet, 0.7, lambda m: comfy_unet_key(m, SD15)),
        (knowing.patcher, clip.patcher, concept.text, -0.4, comfy_text_key),
    ):
        comfy.model_management.load_models_gpu([base])
        before = {k: v.clone() for k, v in base.model.state_dict().items()}
        comfy.model_management.load_models_gpu([patcher])
        after = patcher.model.state_dict()
        changed = {key_of(module): pair for module, pair in factors.items()}
        assert set(changed) <= set(before)
        for key, weight in before.items():
            if key in changed:
                expected = merged_by_hand(weight, changed[key], strength)
                assert relative_error(after[key], expected) <= 1e-6, key
                assert not torch.equal(after[key], weight)
            else:
                assert torch.equal(after[key], weight), key


def test_several_concepts_are_the_plain_weighted_sum(unet, clip, concepts):
    entries = tuple(WeightedConcept(concepts[n], s) for n, s in (("a", 0.5), ("b", 0.8), ("v", -1)))
    model = apply_to_model(unet, entries)
    module = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    key = comfy_unet_key(module, SD15)
    comfy.model_management.load_models_gpu([unet])
    expected = comfy.utils.get_attr(unet.model, key).clone()
    for entry in entries:
        expected = merged_by_hand(expected, entry.concept.unet[module], entry.strength_model)
    comfy.model_management.load_models_gpu([model])
    assert relative_error(comfy.utils.get_attr(model.model, key), expected) <= 1e-6


def test_an_ordinary_lora_before_or_after_draws_the_same_picture(unet, clip, entry):
    lora = small_lora()
    before = apply_concepts(*comfy.sd.load_lora_for_models(unet, clip, lora, 0.5, 0.5), entry)
    after = comfy.sd.load_lora_for_models(*apply_concepts(unet, clip, entry), lora, 0.5, 0.5)
    found = draw(*before)
    assert relative_error(found, draw(*after)) <= 1e-4
    assert relative_error(found, draw(*apply_concepts(unet, clip, entry))) > 1e-3
    assert relative_error(found, draw(unet, clip)) > 1e-3


def test_a_saved_checkpoint_holds_the_merged_weights(unet, clip, concepts, entry):
    """As ModelSave and CheckpointSave do it."""
    model, knowing = apply_concepts(unet, clip, entry)
    comfy.model_management.load_models_gpu([model, knowing.load_model()], force_patch_weights=True)
    saved = model.model.state_dict_for_saving(knowing.get_sd())
    plain = {k.removeprefix("model."): w.clone() for k, w in saved.items()}
    restored = golden_unet()
    weights = {
        k.removeprefix("diffusion_model."): w
        for k, w in plain.items()
        if k.startswith("diffusion_model.")
    }
    assert len(weights) == len(restored.model.diffusion_model.state_dict())
    restored.model.diffusion_model.load_state_dict(weights)
    module = "text_model.encoder.layers.1.self_attn.v_proj"
    ((_, text),) = [(k, w.clone()) for k, w in saved.items() if k.endswith(f"{module}.weight")]
    comfy.model_management.load_models_gpu([clip.patcher])
    base = comfy.utils.get_attr(clip.cond_stage_model, comfy_text_key(module))
    assert relative_error(text, merged_by_hand(base, concepts["a"].text[module], 0.8)) <= 1e-6
    silent = (WeightedConcept(concepts["a"], 0.0, 0.8),)
    found = draw(*apply_concepts(restored, clip, silent))
    assert relative_error(found, draw(model, knowing)) <= 1e-5


# ------------------------------------------------------------- low memory, types, compiling


def test_low_memory_mode_gives_the_same_picture(unet, clip, entry, monkeypatch):
    model, knowing = apply_concepts(unet, clip, entry)
    expected = draw(model, knowing)
    load = comfy.model_patcher.ModelPatcher.load
    cast = []

    def load_little(self, device_to=None, lowvram_model_memory=0, **kwargs):
        load(self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False})
        cast.append(sum(getattr(m, "comfy_cast_weights", False) for m in self.model.modules()))

    comfy.model_management.unload_all_models()
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", load_little)
    found = draw(*apply_concepts(unet, clip, entry))
    monkeypatch.undo()
    comfy.model_management.unload_all_models()
    assert max(cast) > 200  # layers whose weights are patched only while they run
    assert relative_error(found, expected) <= 1e-5
    assert torch.equal(draw(model, knowing), expected)


@pytest.mark.parametrize(
    ("dtype", "cast", "tolerance"),
    [
        (torch.bfloat16, torch.float32, 0.03),
        (torch.float16, torch.float32, 0.003),
        (torch.bfloat16, None, 0.06),
    ],
)
def test_models_of_other_types_draw_nearly_the_same_picture(
    dtype, cast, tolerance, unet, clip, entry
):
    _, knowing = apply_concepts(unet, clip, entry)
    other = golden_unet(dtype=dtype, manual_cast=cast)
    found = draw(apply_to_model(other, entry), knowing, steps=1, cfg=1.0)
    expected = draw(apply_to_model(unet, entry), knowing, steps=1, cfg=1.0)
    assert other.model.get_dtype() == dtype
    assert relative_error(found, expected) <= tolerance


def test_a_compiled_model_keeps_its_wrapper_and_draws_the_same(unet, clip, entry, monkeypatch):
    """ComfyUI's own TorchCompile wrapper around a module that only counts its calls."""
    calls = []

    class Compiled(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self._orig_mod = module

        def forward(self, *args, **kwargs):
            calls.append(1)
            return self._orig_mod(*args, **kwargs)

        def __getattr__(self, name):
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(self._orig_mod, name)

    monkeypatch.setattr(torch, "compile", lambda model, **options: Compiled(model))
    expected = draw(*apply_concepts(unet, clip, entry))
    compiled = unet.clone()
    set_torch_compile_wrapper(compiled, backend="inductor")
    model, knowing = apply_concepts(compiled, clip, entry)
    assert model.get_all_wrappers(WrappersMP.APPLY_MODEL) == compiled.get_all_wrappers(
        WrappersMP.APPLY_MODEL
    )
    assert torch.equal(draw(model, knowing), expected)
    assert len(calls) == 2
    after = apply_to_model(unet, entry)
    set_torch_compile_wrapper(after, backend="inductor")
    assert torch.equal(draw(after, knowing), expected)


# ----------------------------------------------------- concepts and models that do not fit


def made_up(rows=16, width=WIDTH, unet=None, text=None):
    return build_concept("other", {"<o1>": torch.zeros(rows, width)}, text or {}, unet or {})


def factors(module, out, into):
    return {
        f"{module}.lora_down.weight": torch.zeros(2, into),
        f"{module}.lora_up.weight": torch.zeros(out, 2),
    }


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
