"""Rare entries of LoRA files: Apply Concepts does what Load LoRA does, or it is said why not; and
ordinary LoRAs in one chain with an ED-LoRA."""

from dataclasses import replace

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.nodes.apply import ApplyConcepts
from support.lora_files import ALGORITHMS, UNET, make_file, random
from support.sampling import encode, sample
from support.tiny_models import golden_unet

from .test_any_lora import COMFY_NAMES, assert_same, both_parts, changed, load, merged, stock, write

MODULE = next(name for name, shape in UNET.items() if shape == (32, 32))
KOHYA_NAME = "lora_unet_" + MODULE.replace(".", "_")
QUICK = FuseSettings(steps=1, width=128, height=128, text_rows="all tokens")
QUICK_SUM = replace(QUICK, solver="sum")


@pytest.fixture
def one_layer():
    """A LoRA of one square layer."""
    return make_file("kohya", "LoRA", {MODULE: (32, 32)}, COMFY_NAMES)


def test_a_lora_that_makes_its_layer_larger_applies_as_load_lora_does_it(
    one_layer, unet, clip, tmp_path
):
    one_layer[KOHYA_NAME + ".lora_down.weight"] = random(3, 40, seed=1)
    one_layer[KOHYA_NAME + ".reshape_weight"] = torch.tensor([32, 40])
    path = write(one_layer, tmp_path)
    ours, _ = apply_concepts(unet, clip, load(path, 0.7))
    theirs, _ = stock(unet, clip, path, 0.7)
    assert_same(merged(ours), merged(theirs))
    ((_, weight),) = merged(ours).items()
    assert weight.shape == (32, 40)
    bound = bind(unet, None, load(path)[0])
    assert not bound.model  # a region cannot have a layer of another size
    assert any("size" in why for why in bound.left.values())


@pytest.fixture
def whole_weight(tmp_path):
    """A file that sets a weight of the UNet whole, and has a LoRA of the text encoder."""
    query = {"text_model.encoder.layers.0.self_attn.q_proj": (32, 32)}
    text = make_file("kohya", "LoRA", query, COMFY_NAMES, text=True)
    name = f"diffusion_model.{COMFY_NAMES[MODULE]}.set_weight"
    return write({**text, name: random(32, 32, seed=4)}, tmp_path)


@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.5, 1.0), (0.0, 0.0)])
def test_a_weight_that_is_set_whole_is_set_as_load_lora_sets_it(
    strengths, unet, clip, whole_weight
):
    ours = apply_concepts(unet, clip, load(whole_weight, *strengths))
    theirs = stock(unet, clip, whole_weight, *strengths)
    assert_same(changed(ours[0]), changed(theirs[0]))
    assert_same(changed(ours[1].patcher), changed(theirs[1].patcher))


def test_at_strength_0_it_is_not_set_although_load_lora_does(unet, clip, whole_weight):
    """A strength of 0 is the base model bit for bit, whatever the other part's strength."""
    assert changed(stock(unet, clip, whole_weight, 0.0, 1.0)[0])
    assert not changed(apply_concepts(unet, clip, load(whole_weight, 0.0, 1.0))[0])


def test_a_scale_per_output_that_is_a_row_of_numbers_acts_as_a_column(one_layer, clip, tmp_path):
    """ComfyUI drops a DoRA whose scale has one axis, with a line in the log."""
    unet = golden_unet()  # its own, with no other test's weights merged in
    scale = random(32, seed=4).abs() + 0.5
    weights = []
    for number, shape in enumerate([(32,), (32, 1)]):
        file = {**one_layer, KOHYA_NAME + ".dora_scale": scale.reshape(shape)}
        chain = load(write(file, tmp_path, f"dora{number}"), 0.7)
        weights.append(changed(apply_concepts(unet, clip, chain)[0]))
        ((_, delta),) = bind(unet, None, chain[0]).model.items()
        ((key, weight),) = weights[-1].items()
        before = unet.model.state_dict()[key]
        torch.testing.assert_close(delta.matrix(), weight - before, rtol=1e-4, atol=1e-5)
    assert_same(*weights)


def test_ai_toolkits_magnitude_is_pefts(one_layer, unet, clip, tmp_path):
    size = random(32, seed=4).abs() + 0.5
    weights = [
        changed(apply_concepts(unet, clip, load(write(file, tmp_path, f"x{i}")))[0])
        for i, file in enumerate(
            [
                one_layer,
                {**one_layer, KOHYA_NAME + ".lora_magnitude_vector": size},
                {**one_layer, KOHYA_NAME + ".magnitude": size},
            ]
        )
    ]
    assert_same(*weights[1:])
    ((key, weight),) = weights[1].items()
    assert not torch.equal(weight, weights[0][key])
    torch.testing.assert_close(weight.norm(dim=1), size)


# ------------------------------------------------------------------ beside an ED-LoRA, in one chain


@pytest.fixture
def mixed(concepts, tmp_path):
    """An ED-LoRA, and a LoRA of kohya's names with words of its own."""
    path = write(both_parts("kohya", "LoKr"), tmp_path)
    lora = read_concept(path, "blue robot", "Robbie")
    return path, (WeightedConcept(concepts["a"], 0.8), WeightedConcept(lora, 0.5, 0.5))


def test_an_ordinary_lora_after_an_edlora_is_load_lora_on_top(mixed, unet, clip):
    path, chain = mixed
    ours = apply_concepts(unet, clip, chain)
    theirs = stock(*apply_concepts(unet, clip, chain[:1]), path, 0.5)
    assert_same(changed(ours[0]), changed(theirs[0]))
    assert_same(changed(ours[1].patcher), changed(theirs[1].patcher))


@pytest.mark.parametrize("solver", ["exact", "sum"])
def test_an_ordinary_lora_fuses_with_an_edlora(solver, mixed, unet, clip):
    settings = replace(QUICK, solver=solver)
    fused, report = fuse_concepts(unet, clip, mixed[1], settings, lambda *at: None)
    assert fused.trigger_words == "<a1> <a2>\nblue robot"
    assert "Robbie: text encoder" in report
    assert "not fused" not in report
    names = {name for part in (fused.text, fused.unet) for name in part}
    assert {MODULE, "text_model.encoder.layers.1.mlp.fc1"} <= names


def test_both_are_saved_and_apply_again_as_before(mixed, unet, clip, tmp_path):
    chain = mixed[1]
    again = tuple(
        WeightedConcept(
            read_concept(save_concept(entry.concept, tmp_path, f"saved{number}")),
            entry.strength_model,
            entry.strength_clip,
        )
        for number, entry in enumerate(chain)
    )
    assert [entry.concept.words for entry in again] == [entry.concept.words for entry in chain]
    before, after = (apply_concepts(unet, clip, entries) for entries in (chain, again))
    assert_same(changed(after[0]), changed(before[0]))
    assert_same(changed(after[1].patcher), changed(before[1].patcher))


def test_apply_concepts_says_what_is_not_used_and_goes_on_saying_it_while_sampling(
    mixed, unet, clip, tmp_path, monkeypatch
):
    nowhere = "lora_unet_up_blocks_0_attentions_0_proj_in"
    more = {f"{nowhere}.lora_down.weight": random(2, 2), f"{nowhere}.lora_up.weight": random(2, 2)}
    odd = load(write({**both_parts("kohya", "LoRA"), **more}, tmp_path, "odd"))
    told = []
    monkeypatch.setattr("mix_of_show.nodes.apply.teller", lambda node: told.append)
    model, coder = ApplyConcepts.execute(unet, clip, (*mixed[1], *odd)).args
    lost = f"'odd': 1 of 7 layers are not used, {nowhere}"
    assert lost in told[-1]
    sample(model, encode(coder, "<a1> <a2>"), encode(coder, ""))
    assert told[-1] == told[0]
    sample(model, encode(clip, "a cat"), encode(clip, ""))
    assert lost in told[-1]
    assert told[-1] != told[0]  # none of those prompts came from the node's CLIP


def test_every_kind_fused_alone_without_solving_is_that_kind_applied(unet, clip, tmp_path):
    for number, algorithm in enumerate(ALGORITHMS):
        if "bias" in algorithm:
            continue
        chain = load(write(both_parts("kohya", algorithm), tmp_path, f"x{number}"), 0.7)
        fused, _ = fuse_concepts(unet, clip, chain, QUICK_SUM, lambda *at: None)
        comfy.model_management.unload_all_models()  # with the weights that were merged in
        weights = [
            [changed(model), changed(coder.patcher)]
            for model, coder in (
                apply_fused(unet, clip, fused),
                apply_concepts(unet, clip, chain),
            )
        ]
        for ours, theirs in zip(*weights, strict=True):
            assert ours.keys() == theirs.keys(), algorithm
            for key, weight in theirs.items():
                torch.testing.assert_close(ours[key], weight, rtol=1e-4, atol=1e-5, msg=algorithm)
