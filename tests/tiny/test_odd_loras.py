"""Rare entries of LoRA files: Apply Concepts does what Load LoRA does, or it is said why not."""

import pytest
import torch

from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.bind import bind
from support.lora_files import UNET, make_file, random

from .test_any_lora import COMFY_NAMES, assert_same, changed, load, merged, stock, write

MODULE = next(name for name, shape in UNET.items() if shape == (32, 32))
KOHYA_NAME = "lora_unet_" + MODULE.replace(".", "_")


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
