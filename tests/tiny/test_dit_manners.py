"""Regions on diffusion transformers beside other types of weights, low memory, compiled models and
other packs' patches."""

import comfy.model_management
import comfy.model_patcher
import comfy.patcher_extension
import pytest
import torch
from comfy_api.torch_helpers import set_torch_compile_wrapper

from mix_of_show.mos_core.errors import ArchitectureError, RegionError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import CROSS, JOINT
from support.devices import free_everything
from support.dit_models import TINY, dit_conditioning, draw_dit, fill, tiny_dit
from support.dit_regions import (
    LEFT,
    RIGHT,
    WHOLE,
    error,
    merged,
    random_lora,
    region,
    text_of,
    with_regions,
)

FAMILIES = tuple(TINY)
OVERRIDE = "optimized_attention_override"
EXACT, MERGED = 2e-5, 1e-4
FP8 = torch.float8_e4m3fn


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


def prompts(name, positive=1, negative=2):
    return dit_conditioning(name, positive), dit_conditioning(name, negative)


def sides(name, model):
    return (
        region(LEFT, text_of(name, 3, 4), random_lora(model, 1)),
        region(RIGHT, text_of(name, 5, None, 14), random_lora(model, 2)),
    )


# ------------------------------------------------------------------------------- types of weights


def with_weights_of(name, stored):
    """A fp32 model whose weights are those of another one, rounded as they are stored there."""
    model = tiny_dit(name)
    weights = stored.model.diffusion_model.state_dict()
    model.model.diffusion_model.load_state_dict({k: w.float() for k, w in weights.items()})
    return model


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, FP8], ids=str)
def test_stored_weights_of_any_type_get_deltas_that_no_rounding_touches(name, dtype):
    """Load LoRA rounds the merged weight; here the same weights in fp32 are the measure."""
    stored = tiny_dit(name, dtype, torch.float32)
    exact = with_weights_of(name, stored)
    lora = random_lora(exact)
    drawn = (region(WHOLE, text_of(name, 3, 4), lora),)
    found = draw_dit(with_regions(stored, drawn), name, *prompts(name))
    expected = draw_dit(merged(exact, lora), name, *prompts(name, 3, 4))
    assert error(found, expected) <= MERGED


def test_bf16_throughout_is_as_near_as_load_lora(name):
    model, exact = tiny_dit(name, torch.bfloat16), tiny_dit(name)
    lora = random_lora(exact)
    expected = draw_dit(merged(exact, lora), name, *prompts(name, 3, 4))
    drawn = (region(WHOLE, text_of(name, 3, 4), lora),)
    ours = draw_dit(with_regions(model, drawn), name, *prompts(name))
    stock = draw_dit(merged(model, lora), name, *prompts(name, 3, 4))
    spread = [(found - expected).square().mean().sqrt() / expected.std() for found in (ours, stock)]
    assert spread[0] <= max(2.5 * spread[1], 0.02)


def test_bf16_plain_pictures_stay_as_they_are_bit_for_bit(name):
    model = tiny_dit(name, torch.bfloat16)
    drawn = (region(WHOLE, text_of(name, 3, 4)),)
    found = draw_dit(with_regions(model, drawn), name, *prompts(name))
    assert torch.equal(found, draw_dit(model, name, *prompts(name, 3, 4)))


def test_low_memory_gives_the_same_picture(name, monkeypatch):
    model = tiny_dit(name)
    patched = with_regions(model, sides(name, model))
    expected = draw_dit(patched, name, *prompts(name))
    load = comfy.model_patcher.ModelPatcher.load
    cast = []

    def load_little(self, device_to=None, lowvram_model_memory=0, **kwargs):
        load(self, device_to, lowvram_model_memory=1, **{**kwargs, "full_load": False})
        cast.append(sum(getattr(m, "comfy_cast_weights", False) for m in self.model.modules()))

    free_everything()
    monkeypatch.setattr(comfy.model_patcher.ModelPatcher, "load", load_little)
    found = draw_dit(patched, name, *prompts(name))
    monkeypatch.undo()
    free_everything()
    assert max(cast) > 10
    assert torch.equal(found, expected)


# -------------------------------------------------------------------------------- compiled models


@pytest.mark.parametrize("name", ["flux", "z_image"], indirect=True)
def test_a_compiled_model_draws_regions_exactly_and_stays_compiled(name):
    model = tiny_dit(name)
    plain = draw_dit(model, name, *prompts(name))
    expected = draw_dit(with_regions(model, sides(name, model)), name, *prompts(name))
    compiled = model.clone()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    set_torch_compile_wrapper(compiled, backend=backend)
    try:
        assert error(draw_dit(compiled, name, *prompts(name)), plain) <= EXACT
        traced = len(graphs)
        assert traced
        patched = with_regions(compiled, sides(name, model))
        assert torch.equal(draw_dit(patched, name, *prompts(name)), expected)
        assert error(draw_dit(compiled, name, *prompts(name)), plain) <= EXACT
        assert len(graphs) == traced  # neither run has traced anew
    finally:
        torch.compiler.reset()


# ------------------------------------------------------------------------------------ other packs


def test_another_packs_attention_override_is_called_for_every_group(name):
    model = tiny_dit(name)
    lengths = []

    def override(func, q, k, v, *args, **kwargs):
        lengths.append((q.shape[2], k.shape[2]))
        return func(q, k, v * 1.5, *args, **kwargs)

    for first in (True, False):
        lengths.clear()
        other = model.clone()
        if first:
            other.model_options["transformer_options"][OVERRIDE] = override
        patched = with_regions(other, (region(WHOLE, text_of(name, 3, 4)),))
        if not first:
            patched.model_options["transformer_options"][OVERRIDE] = override
        found = draw_dit(patched, name, *prompts(name))
        assert lengths
        changed = model.clone()
        changed.model_options["transformer_options"][OVERRIDE] = override
        assert torch.equal(found, draw_dit(changed, name, *prompts(name, 3, 4)))


def test_another_packs_wrapper_and_load_lora_go_on_working(name):
    model = tiny_dit(name)
    lora = random_lora(model)
    calls = []

    def note(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
    some = merged(model, lora, strength=0.25)
    some.add_wrapper_with_key(kind, "another pack", note)
    rest = type(lora)(None, {s: d.scaled(0.75) for s, d in lora.model.items()}, {})
    patched = with_regions(some, (region(WHOLE, text_of(name, 3, 4), rest),))
    patched.add_wrapper_with_key(kind, "a third", note)
    found = draw_dit(patched, name, *prompts(name))
    assert len(calls) == 4
    assert error(found, draw_dit(merged(model, lora), name, *prompts(name, 3, 4))) <= MERGED


@pytest.mark.parametrize("name", ["flux", "flux2", "chroma", "qwen_image"], indirect=True)
def test_another_packs_block_patch_sees_the_blocks_and_may_call_them(name):
    model = tiny_dit(name)
    calls = []

    def patch(arguments, extra):
        calls.append(arguments["txt"].shape[1])
        return extra["original_block"](arguments)

    other = model.clone()
    other.set_model_patch_replace(patch, "dit", "double_block", 0)
    drawn = sides(name, model)
    found = draw_dit(with_regions(other, drawn), name, *prompts(name))
    assert calls
    assert torch.equal(found, draw_dit(with_regions(model, drawn), name, *prompts(name)))


# --------------------------------------------------------------------------------------- messages


def test_a_second_patch_is_refused(name):
    model = tiny_dit(name)
    patched = with_regions(model, (region(LEFT, text_of(name, 3)),))
    with pytest.raises(RegionError, match="has regions already"):
        with_regions(patched, (region(LEFT, text_of(name, 3)),))


def test_a_text_of_another_width_is_refused(name):
    model = tiny_dit(name)
    text = text_of(name, 3)
    wide = type(text)([[torch.zeros(1, 9, 8 * TINY[name].width), dict(TINY[name].extras)]], None)
    with pytest.raises(ArchitectureError, match="connect MODEL and CLIP of the same checkpoint"):
        draw_dit(with_regions(model, (region(LEFT, wide),)), name, *prompts(name))


@pytest.mark.parametrize("name", ["flux", "z_image"], indirect=True)
def test_a_layer_that_works_on_other_tokens_is_refused(name):
    model = tiny_dit(name)
    patched = with_regions(model, sides(name, model))

    def merge_tokens(module, args):
        return (args[0][:, ::2], *args[1:])

    layer = model.model.diffusion_model
    layer = layer.txt_in if name == "flux" else layer.x_embedder
    handle = layer.register_forward_pre_hook(merge_tokens)
    try:
        with pytest.raises(RegionError, match="not what regions expect"):
            draw_dit(patched, name, *prompts(name))
    finally:
        handle.remove()


def test_an_unknown_model_is_refused_by_name():
    for config in ({"image_model": "wan2.1"}, {"audio_model": "ace"}, {}):
        with pytest.raises(ArchitectureError, match="It knows SDXL") as told:
            family_of(config)
        assert all(kind in str(told.value) for kind in config.values())


def test_every_layer_of_every_model_has_a_role_and_every_joint_layer_attends(name):
    model = tiny_dit(name)
    family, layers = family_of(model.model.model_config.unet_config)
    random_lora(model)  # asserts a role for each linear layer
    paths = dict(model.model.diffusion_model.named_modules())
    assert all(layer.path in paths for layer in layers)
    attending = family.sequence.attending(paths)
    assert len(attending) >= len(layers)
    assert {JOINT, CROSS} & set(attending.values())


def test_weights_are_seeded_by_name():
    first, second = tiny_dit("flux"), tiny_dit("flux")
    fill(second.model.diffusion_model, 1)
    a, b = (m.model.diffusion_model.img_in.weight for m in (first, second))
    assert not torch.equal(a, b)
