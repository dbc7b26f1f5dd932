"""Any LoRA of any trainer: Apply Concepts is ComfyUI's own Load LoRA, bit for bit."""

import comfy.lora
import comfy.lora_convert
import comfy.sd
import comfy.utils
import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fit_notes import fit_notes
from mix_of_show.mos_core.patch.host.bind import NO_BIAS, bind
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.records import WeightedConcept
from support.lora_files import (
    ALGORITHMS,
    CONVOLUTIONS,
    KOHYA,
    NAMES,
    OF_CONVOLUTIONS,
    TEXT,
    UNET,
    make_file,
    random,
)
from support.tiny_models import SD15_UNET

MAP = comfy.utils.unet_to_diffusers(SD15_UNET)
COMFY_NAMES = {k.removesuffix(".weight"): v.removesuffix(".weight") for k, v in MAP.items()}
STRENGTHS = (1.0, 0.7, -0.5, 0.0)
# Trainers whose names the running ComfyUI knows as well, so that its Load LoRA is an oracle.
KNOWN = [name for name in NAMES if name not in ("peft", "peft default", "peft saved", "own")]
CASES = [(trainer, "LoRA") for trainer in KNOWN]
CASES += [(trainer, algorithm) for trainer in KOHYA for algorithm in ALGORITHMS]


def write(tensors, tmp_path, name="lora", metadata=None):
    path = tmp_path / f"{name}.safetensors"
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata)
    return path


def load(path, strength=1.0, strength_clip=None):
    concept = read_any(path)
    clip = strength if strength_clip is None else strength_clip
    return (WeightedConcept(concept, strength, clip),)


def stock(unet, clip, path, strength, strength_clip=None):
    """As the node Load LoRA does it."""
    clip_strength = strength if strength_clip is None else strength_clip
    if strength == 0 and clip_strength == 0:
        return unet, clip
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    return comfy.sd.load_lora_for_models(unet, clip, lora, strength, clip_strength)


def merged(patcher):
    """Every patched weight as the model would run with it."""
    weights = patcher.model.state_dict()
    return {
        key: comfy.lora.calculate_weight(patches, weights[key].clone(), key)
        for key, patches in patcher.patches.items()
    }


def changed(patcher):
    weights = patcher.model.state_dict()
    return {k: w for k, w in merged(patcher).items() if not torch.equal(w, weights[k])}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for key, weight in ours.items():
        assert torch.equal(weight, theirs[key]), key


def both_parts(trainer, algorithm, seed=0):
    unet = make_file(trainer, algorithm, UNET, COMFY_NAMES, seed=seed)
    return {**unet, **make_file(trainer, algorithm, TEXT, COMFY_NAMES, text=True, seed=seed + 500)}


def test_the_modules_of_the_files_have_these_shapes(unet, clip):
    weights, text = unet.model.state_dict(), clip.cond_stage_model.state_dict()
    for module, shape in {**UNET, **CONVOLUTIONS}.items():
        assert weights[f"diffusion_model.{COMFY_NAMES[module]}.weight"].shape == shape
    for module, shape in TEXT.items():
        assert text[f"clip_l.transformer.{module}.weight"].shape == shape


@pytest.mark.parametrize(("trainer", "algorithm"), CASES)
def test_apply_concepts_is_load_lora_bit_for_bit(trainer, algorithm, unet, clip, tmp_path):
    path = write(both_parts(trainer, algorithm), tmp_path)
    for strength in STRENGTHS:
        ours = apply_concepts(unet, clip, load(path, strength))
        theirs = stock(unet, clip, path, strength)
        assert_same(changed(ours[0]), changed(theirs[0]))
        assert_same(changed(ours[1].patcher), changed(theirs[1].patcher))


@pytest.mark.parametrize("algorithm", OF_CONVOLUTIONS)
def test_of_convolutions_as_well(algorithm, unet, clip, tmp_path):
    path = write(make_file("kohya", algorithm, CONVOLUTIONS, COMFY_NAMES), tmp_path)
    for strength in STRENGTHS:
        ours, _ = apply_concepts(unet, clip, load(path, strength))
        theirs, _ = stock(unet, clip, path, strength)
        found, expected = changed(ours), changed(theirs)
        assert_same(found, expected)
        assert len(found) >= (2 if strength else 0)


@pytest.mark.parametrize("trainer", NAMES)
def test_every_layer_of_every_trainers_file_is_found(trainer, unet, clip, tmp_path):
    algorithm = (
        "LoRA" if trainer not in ("peft", "peft default", "peft saved") else "LoRA without alpha"
    )
    path = write(both_parts(trainer, algorithm), tmp_path)
    (entry,) = load(path)
    assert not entry.concept.unused
    bound = bind(unet, clip, entry)
    assert not bound.left
    assert len(bound.model) == len(UNET)
    assert len(bound.text) == len(TEXT)
    kohya = write(both_parts("kohya", algorithm), tmp_path, "kohya")
    theirs = stock(unet, clip, kohya, 1.0)
    ours = apply_concepts(unet, clip, (entry,))
    assert_same(changed(ours[0]), changed(theirs[0]))
    assert_same(changed(ours[1].patcher), changed(theirs[1].patcher))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("strength", [1.0, 0.7, -0.5])
def test_a_bound_delta_is_what_load_lora_changes(algorithm, strength, unet, clip, tmp_path):
    path = write(both_parts("kohya", algorithm), tmp_path)
    bound = bind(unet, clip, load(path, strength)[0])
    theirs = stock(unet, clip, path, strength)
    assert set(bound.left.values()) <= {NO_BIAS}
    check_deltas(bound.model, unet, changed(theirs[0]))
    check_deltas(bound.text, clip.patcher, changed(theirs[1].patcher))


@pytest.mark.parametrize("algorithm", OF_CONVOLUTIONS)
def test_a_bound_delta_of_a_convolution_acts_as_its_kernel(algorithm, unet, clip, tmp_path):
    path = write(make_file("kohya", algorithm, CONVOLUTIONS, COMFY_NAMES), tmp_path)
    bound = bind(unet, clip, load(path, 0.7)[0])
    theirs = changed(stock(unet, clip, path, 0.7)[0])
    for module in CONVOLUTIONS:
        key = f"diffusion_model.{COMFY_NAMES[module]}"
        layer = comfy.utils.get_attr(unet.model, key)
        (delta,) = [d for s, d in {**bound.maps, **bound.model}.items() if s.path == key]
        x = random(2, 32, 6, 8, seed=3, scale=1.0)
        weight = theirs.get(f"{key}.weight", layer.weight) - layer.weight
        bias = theirs.get(f"{key}.bias", layer.bias) - layer.bias
        how = (layer.stride, layer.padding, layer.dilation)
        expected = torch.nn.functional.conv2d(x, weight, bias, *how)
        torch.testing.assert_close(delta.on_map(x, layer), expected, rtol=1e-4, atol=2e-5)


def check_deltas(found, patcher, theirs):
    weights = patcher.model.state_dict()
    keys = {key.rsplit(".", 1)[0] for key in theirs}
    assert {site.path for site in found} == keys
    for site, delta in found.items():
        into = delta.shape[1]
        x = random(5, into, seed=7, scale=1.0)
        expected = torch.zeros(5, delta.shape[0])
        for end, rows in ((".weight", x), (".bias", None)):
            key = site.path + end
            if key in theirs:
                change = (theirs[key] - weights[key]).flatten(1 if rows is not None else 0)
                expected = expected + (change if rows is None else rows @ change.T)
        torch.testing.assert_close(delta.on_rows(x), expected, rtol=1e-4, atol=2e-5)


def test_two_loaders_of_one_file_are_independent(unet, clip, tmp_path):
    path = write(both_parts("kohya", "LoRA"), tmp_path)
    chain = (*load(path, 0.7), *load(path, -0.2))
    ours = apply_concepts(unet, clip, chain)
    once = stock(unet, clip, path, 0.7)
    theirs = stock(*once, path, -0.2)
    assert_same(changed(ours[0]), changed(theirs[0]))
    assert_same(changed(ours[1].patcher), changed(theirs[1].patcher))


def test_an_ordinary_lora_changes_neither_tokenizer_nor_conditioning(unet, clip, tmp_path):
    path = write(both_parts("kohya", "LoRA"), tmp_path)
    model, coder = apply_concepts(unet, clip, load(path))
    assert type(coder.tokenizer) is type(clip.tokenizer)
    assert not model.wrappers
    assert not unet.patches
    assert not clip.patcher.patches


@pytest.mark.parametrize("part", ["unet", "text"])
def test_a_lora_of_one_part_alone_works(part, unet, clip, tmp_path):
    text = part == "text"
    modules = TEXT if text else UNET
    path = write(make_file("kohya", "LoRA", modules, COMFY_NAMES, text=text), tmp_path)
    model, coder = apply_concepts(unet, clip, load(path))
    assert len(model.patches) == (0 if text else len(UNET))
    assert len(coder.patcher.patches) == (len(TEXT) if text else 0)


@pytest.mark.parametrize("pair", [("kohya", "ai-toolkit"), ("lycoris", "kohya"), ("peft", "kohya")])
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_names_of_a_layer_the_one_that_load_lora_uses_acts(
    pair, turned, unet, clip, tmp_path
):
    """Whichever stands first in the file; the other is named."""
    first, second = reversed(pair) if turned else pair
    algorithm = "LoRA without alpha"
    tensors = make_file(first, algorithm, UNET, COMFY_NAMES)
    tensors |= make_file(second, algorithm, UNET, COMFY_NAMES, seed=3)
    path = write(tensors, tmp_path)
    bound = bind(unet, clip, load(path)[0])
    assert len(bound.model) == len(UNET)
    said = [name for name, why in bound.left.items() if "another name of the file" in why]
    assert len(said) == len(UNET)
    ours, _ = apply_concepts(unet, clip, load(path))
    theirs, _ = stock(unet, clip, path, 1.0)
    assert_same(changed(ours), changed(theirs))


def wrong(unet, change):
    """A file for the golden UNet whose first layer was changed."""
    tensors = make_file("kohya", "LoRA", UNET, COMFY_NAMES)
    name = next(iter(tensors)).removesuffix(".lora_down.weight")
    return {**tensors, **{name + end: tensor for end, tensor in change.items()}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({".lora_up.weight": torch.ones(64, 3)}, "is 32 x 32 here, 64 x 32"),
        ({".lora_down.weight": torch.ones(3, 48)}, "is 32 x 32 here, 32 x 48"),
        (
            {".lora_up.weight": torch.ones(16, 3), ".lora_down.weight": torch.ones(3, 64)},
            "is 32 x 32 here, 16 x 64",
        ),
        ({".dora_scale": torch.ones(48, 1)}, r"dora_scale .* has shape \(48, 1\)"),
        ({".dora_scale": torch.ones(32, 2)}, r"dora_scale .* has shape \(32, 2\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_before_anything_is_used(
    change, message, unet, clip, tmp_path
):
    path = write(wrong(unet, change), tmp_path)
    for use in (apply_concepts, lambda m, c, e: bind(m, c, e[0])):
        with pytest.raises(ArchitectureError, match=message):
            use(unet, clip, load(path, 0.0))
    assert not unet.patches


def test_what_of_a_file_does_not_act_is_said_with_counts_and_the_likeliest_reason(
    unet, clip, tmp_path
):
    tensors = both_parts("kohya", "LoRA and bias")
    tensors |= {
        f"lora_unet_up_blocks_0_attentions_0_proj_in.{end}": random(2, 2)
        for end in ("lora_down.weight", "lora_up.weight")
    }
    tensors["something.else"] = random(2)
    chain = load(write(tensors, tmp_path))
    told = "\n".join(fit_notes(unet, clip, chain))
    assert "'lora': 1 of 7 layers are not used, lora_unet_up_blocks_0" in told
    assert "this model has no such layer; it was probably trained on another variant" in told
    assert "this layer has no bias in this model" in told
    assert "1 tensors of its file mean nothing" in told
    assert fit_notes(unet, clip, load(write(both_parts("kohya", "LoRA"), tmp_path))) == ()


@pytest.mark.parametrize(("part", "strengths"), [("unet", (0.0, 1.0)), ("text", (1.0, 0.0))])
def test_a_lora_that_a_strength_switches_off_altogether_is_said(
    part, strengths, unet, clip, tmp_path
):
    text = part == "text"
    path = write(
        make_file("kohya", "LoRA", TEXT if text else UNET, COMFY_NAMES, text=text), tmp_path
    )
    (note,) = fit_notes(unet, clip, load(path, *strengths))
    assert f"its strength_{'clip' if text else 'model'} is 0" in note
