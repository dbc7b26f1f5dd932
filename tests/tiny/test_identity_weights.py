"""What Apply Concepts adds to the weights."""

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

from mix_of_show.mos_core.families.unet import SD15, comfy_text_key, comfy_unet_key
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_model
from mix_of_show.mos_core.records import WeightedConcept
from support.golden import relative_error
from support.identity import (
    draw,
    entry,  # noqa: F401 (fixtures)
)
from support.oracle import small_lora
from support.tiny_models import golden_unet

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
    for each in entries:
        expected = merged_by_hand(expected, each.concept.unet[module], each.strength_model)
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


def test_a_saved_checkpoint_holds_the_merged_weights(unet, clip, concepts, entry, tmp_path):
    """As ModelSave and CheckpointSave do it."""
    model, knowing = apply_concepts(unet, clip, entry)
    path = str(tmp_path / "saved.safetensors")
    comfy.sd.save_checkpoint(path, model, knowing)
    saved = comfy.utils.load_torch_file(path)
    plain = {k.removeprefix("model."): w for k, w in saved.items()}
    restored = golden_unet()
    weights = {
        k.removeprefix("diffusion_model."): w
        for k, w in plain.items()
        if k.startswith("diffusion_model.")
    }
    assert len(weights) == len(restored.model.diffusion_model.state_dict())
    restored.model.diffusion_model.load_state_dict(weights)
    module = "text_model.encoder.layers.1.self_attn.v_proj"
    (text,) = [w for k, w in saved.items() if k.endswith(f"{module}.weight")]
    comfy.model_management.load_models_gpu([clip.patcher])
    base = comfy.utils.get_attr(clip.cond_stage_model, comfy_text_key(module))
    assert relative_error(text, merged_by_hand(base, concepts["a"].text[module], 0.8)) <= 1e-6
    silent = (WeightedConcept(concepts["a"], 0.0, 0.8),)
    found = draw(*apply_concepts(restored, clip, silent))
    assert relative_error(found, draw(model, knowing)) <= 1e-5


# ------------------------------------------------------------- low memory, types, compiling


def test_low_memory_mode_gives_the_same_picture(unet, clip, entry, monkeypatch):
    load = comfy.model_patcher.ModelPatcher.load
    cast = []

    def load_little(self, device_to=None, lowvram_model_memory=0, **kwargs):
        load(self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False})
        cast.append(sum(getattr(m, "comfy_cast_weights", False) for m in self.model.modules()))

    def draw_with_little(pair):
        comfy.model_management.unload_all_models()
        with monkeypatch.context() as patch:
            patch.setattr(comfy.model_patcher.ModelPatcher, "load", load_little)
            found = draw(*pair)
        comfy.model_management.unload_all_models()
        return found

    stock = comfy.sd.load_lora_for_models(unet, clip, small_lora(), 0.5, 0.5)
    if relative_error(draw_with_little(stock), draw(*stock)) > 1e-5:
        pytest.skip("this ComfyUI loses a stock LoRA too where low memory is forced on the CPU")
    model, knowing = apply_concepts(unet, clip, entry)
    expected = draw(model, knowing)
    found = draw_with_little((model, knowing))
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
