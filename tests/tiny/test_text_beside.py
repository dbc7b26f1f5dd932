"""Concept tokens beside ComfyUI's own nodes that change a CLIP."""

import copy
import pickle

import comfy.hooks
import comfy.sd
import comfy.sd1_clip
import pytest
import torch
from comfy_extras.nodes_hooks import SetClipHooks

import nodes
from mix_of_show.mos_core.patch.apply import apply_concepts, apply_to_clip
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.text.tokenizer import ConceptTokenizer, concept_table
from support.golden import relative_error
from support.oracle import small_lora, stock_encoding, stock_tokens
from support.text_oracles import TOLERANCE, by_layer, encode, entry, knowing, merged  # noqa: F401 (fixtures)
from support.tiny_models import LAYERS

# --------------------------------------------------------------------------- other nodes


def test_clip_skip_before_and_after_are_the_same_and_equal_stock_clip_skip(
    clip, entry, merged, concepts
):
    skip = nodes.CLIPSetLastLayer().set_last_layer
    prompt = "a <a1> <a2>, lake"
    (before,), (after,) = skip(clip, -2), skip(apply_to_clip(clip, entry), -2)
    found = encode(apply_to_clip(before, entry), prompt)[0]
    assert torch.equal(found, encode(after, prompt)[0])
    (stock,) = skip(merged, -2)
    expected = stock_encoding(stock, prompt, concepts["a"].embeddings)
    assert relative_error(by_layer(found), expected) <= TOLERANCE
    unskipped = encode(apply_to_clip(clip, entry), prompt)[0]
    assert relative_error(found, unskipped) > 1e-2


def test_another_lora_before_and_after_is_the_same_and_equals_the_stock_sum(
    unet, clip, entry, merged, concepts
):
    lora, prompt = small_lora(), "a <a1> <a2>, lake"
    _, before = comfy.sd.load_lora_for_models(unet, clip, lora, 0.5, 0.7)
    before = apply_to_clip(before, entry)
    _, after = comfy.sd.load_lora_for_models(unet, apply_to_clip(clip, entry), lora, 0.5, 0.7)
    found = encode(before, prompt)[0]
    assert relative_error(encode(after, prompt)[0], found) <= TOLERANCE
    _, stock = comfy.sd.load_lora_for_models(unet, merged, lora, 0.5, 0.7)
    expected = stock_encoding(stock, prompt, concepts["a"].embeddings)
    assert relative_error(by_layer(found), expected) <= TOLERANCE
    assert relative_error(found, encode(apply_to_clip(clip, entry), prompt)[0]) > 1e-3


def test_two_apply_concepts_in_a_row_equal_one_with_both(unet, clip, concepts):
    a, b = WeightedConcept(concepts["a"], 0.9, 0.8), WeightedConcept(concepts["b"], 0.7, 0.6)
    prompt = "<a1> <a2> beside <b1> <b2>"
    _, in_a_row = apply_concepts(*apply_concepts(unet, clip, (a,)), (b,))
    _, at_once = apply_concepts(unet, clip, (a, b))
    assert torch.equal(encode(in_a_row, prompt)[0], encode(at_once, prompt)[0])


def test_hooks_with_a_schedule_encode_layer_by_layer_too(clip, entry, merged, concepts):
    def with_hooks(clip):
        hooks = comfy.hooks.create_hook_lora(small_lora(part="text"), 0.0, 1.0)
        first = comfy.hooks.HookKeyframe(strength=0.0, start_percent=0.0)
        second = comfy.hooks.HookKeyframe(strength=1.0, start_percent=0.5)
        frames = comfy.hooks.HookKeyframeGroup()
        frames.add(first)
        frames.add(second)
        hooks.set_keyframes_on_hooks(frames)
        return SetClipHooks().apply_hooks(clip, True, False, hooks)[0]

    hooked, stock = with_hooks(apply_to_clip(clip, entry)), with_hooks(merged)
    tables = concepts["a"].embeddings
    found = hooked.encode_from_tokens_scheduled(hooked.tokenize("a <a1> <a2>"))
    assert len(found) == 2
    per_layer = [
        stock.encode_from_tokens_scheduled(stock_tokens(stock.tokenizer, "a <a1> <a2>", tables, i))
        for i in range(LAYERS)
    ]
    for frame, (cond, _) in enumerate(found):
        expected = torch.cat([encoded[frame][0] for encoded in per_layer])
        assert relative_error(by_layer(cond), expected) <= TOLERANCE
    assert relative_error(found[0][0], found[1][0]) > 1e-3


def test_another_packs_object_patch_is_called_and_not_lost(clip, entry):
    calls = []
    theirs = clip.clone()

    def encode_token_weights(tokens):
        calls.append(len(tokens["l"]))
        return type(theirs.cond_stage_model).encode_token_weights(theirs.cond_stage_model, tokens)

    theirs.patcher.add_object_patch("encode_token_weights", encode_token_weights)
    knowing = apply_to_clip(theirs, entry)
    found = encode(apply_to_clip(knowing, ()), "a <a1>")[0]
    assert calls == [LAYERS]
    assert torch.equal(found, encode(apply_to_clip(clip, entry), "a <a1>")[0])


def test_a_clone_that_ends_up_on_another_module_encodes_with_that_module(clip, entry):
    """Newer ComfyUI: ModelPatcher.clone(disable_dynamic=True) has a model of its own."""
    knowing = apply_to_clip(clip, entry)
    other = copy.copy(knowing.patcher.model)
    again = knowing.patcher.clone()
    again.model = other
    for callback in knowing.patcher.get_all_callbacks("on_clone"):
        callback(knowing.patcher, again)
    assert again.object_patches["encode_token_weights"].model is other
    assert knowing.patcher.object_patches["encode_token_weights"].model is not other


def test_the_tokenizer_can_be_copied_and_stays_what_it_was_made_from(knowing):
    tokenizer = knowing.tokenizer
    for other in (copy.copy(tokenizer), copy.deepcopy(tokenizer), tokenizer.clone()):
        chunks = other.tokenize_with_weights("a <a1>")["l"]
        assert sum(concept_table(token) is not None for token, _ in chunks[0]) == 1
    assert tokenizer.clip_l.max_length == 77
    assert tokenizer.state_dict() == {}
    with pytest.raises(AttributeError):
        _ = tokenizer.nothing_of_that_name
    with pytest.raises(AttributeError):
        _ = object.__new__(ConceptTokenizer).anything
    pickle.dumps(tokenizer.vocabulary)
