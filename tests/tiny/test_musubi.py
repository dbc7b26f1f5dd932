"""LoRAs of diffusion transformers as musubi-tuner writes them: `lora_unet_` and its own names.

Names from musubi-tuner 0.3.4: `networks/lora_flux.py`, `lora_flux_2.py`, `lora_qwen_image.py`,
`lora_zimage.py`, `lora_krea2.py` say which layers are trained, `convert_lora.py` (target "other")
and `convert_z_image_lora_to_comfy.py` what its two converters make of them.
"""

import re

import pytest
import torch

from mix_of_show.mos_core.patch.apply import apply_to_model
from mix_of_show.mos_core.patch.fit_notes import fit_notes
from mix_of_show.mos_core.patch.host.bind import bind
from support.dit_models import tiny_dit
from support.lora_files import loha, lokr, lora

from .test_any_lora import STRENGTHS, assert_same, changed, load, stock, write

ALGORITHMS = {"LoRA": lora, "LoHa": loha, "LoKr": lokr}
# Which Linears of the blocks are trained; Z-Image and Flux leave out modulation and refiners.
BLOCKS = r"double_blocks\.\d+\.(img|txt)_(attn\.(qkv|proj)|mlp\.\d)|single_blocks\.\d+\.linear\d"
TRAINED = {
    "flux": BLOCKS,
    "flux2": BLOCKS,
    "qwen_image": r"transformer_blocks\..*",
    "z_image": r"layers\.\d+\.(attention|feed_forward)\..*",
    "krea2": r".*",
}
# In musubi's Z-Image q, k and v are apart: its own module -> what ComfyUI calls the same rows.
SPLIT = {"attention.qkv": ("attention.to_q", "attention.to_k", "attention.to_v")}
RENAMED = {"attention.out": "attention.to_out.0"}
TITLES = {  # modelspec.architecture as musubi writes it
    "flux": "Flux.1-dev/lora",
    "flux2": "Flux.2-dev/lora",
    "qwen_image": "Qwen-Image/lora",
    "z_image": "Z-Image/lora",
    "krea2": "Krea-2/lora",
}


def modules(name, model):
    """{path in musubi's model: shape of its weight}."""
    found = {}
    for path, module in model.model.diffusion_model.named_modules():
        if not isinstance(module, torch.nn.Linear) or not re.fullmatch(TRAINED[name], path):
            continue
        out, into = module.weight.shape
        block, _, end = path.partition(".attention.")
        own = f"attention.{end}"
        if name == "z_image" and own in SPLIT:
            found |= {f"{block}.{third}": (out // 3, into) for third in SPLIT[own]}
        elif name == "z_image" and own in RENAMED:
            found[f"{block}.{RENAMED[own]}"] = (out, into)
        else:
            found[path] = (out, into)
    return found


def make(layers, algorithm="LoRA"):
    """{path: its tensors}, as musubi saves them: with alpha."""
    return {
        path: ALGORITHMS[algorithm](shape, 10 * number)
        for number, (path, shape) in enumerate(layers.items())
    }


def named(made, write_name):
    return {write_name(path) + end: t for path, own in made.items() for end, t in own.items()}


def musubi(path):
    return "lora_unet_" + path.replace(".", "_")


def generic(path):
    """The name that ComfyUI's Load LoRA knows for the same rows in every family."""
    return f"diffusion_model.{path}"


def check(path, oracle, model, tmp_path):
    for strength in STRENGTHS:
        ours = apply_to_model(model, load(path, strength))
        theirs, _ = stock(model, None, oracle, strength)
        assert_same(changed(ours), changed(theirs))
        assert bool(changed(ours)) == (strength != 0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", TRAINED)
def test_every_layer_is_found_and_applied_as_load_lora_does_it(name, algorithm, tmp_path):
    """Where Load LoRA does not know musubi's name (Z-Image), of the same file in names it knows."""
    model = tiny_dit(name)
    made = make(modules(name, model), algorithm)
    path = write(named(made, musubi), tmp_path, "a", {"modelspec.architecture": TITLES[name]})
    (entry,) = load(path)
    assert not entry.concept.unused
    bound = bind(model, None, entry)
    assert not bound.left
    assert len(bound.model) == len(made)
    oracle = write(named(made, generic), tmp_path, "b") if name == "z_image" else path
    check(path, oracle, model, tmp_path)


@pytest.mark.parametrize("name", TRAINED)
def test_what_load_lora_leaves_out_is_said(name, tmp_path):
    model = tiny_dit(name)
    made = make(modules(name, model))
    path = write(named(made, musubi), tmp_path)
    loaded, _ = stock(model, None, path, 1.0)
    unknown = [layer for layer in made if "attention.to_" in layer]  # of Z-Image alone
    notes = fit_notes(model, None, load(path))
    assert len(loaded.patches) == len(made) - len(unknown)
    if not unknown:
        assert notes == ()
        return
    (note,) = notes
    assert f"{len(unknown)} of {len(made)} layers have names that" in note
    assert "Load LoRA" in note
    ours = apply_to_model(model, load(path))
    assert set(changed(ours)) > set(changed(loaded))


def test_flux_converted_by_musubi_is_found_although_load_lora_does_not_know_it(tmp_path):
    """`convert_lora.py` writes `img_attn_qkv` where Flux has `img_attn.qkv`, and no alpha."""
    model = tiny_dit("flux")
    layers = modules("flux", model)
    made = {p: lora(s, 10 * i, (".lora_A.weight", ".lora_B.weight"), alpha=None)
            for i, (p, s) in enumerate(layers.items())}  # fmt: skip
    path = write(named(made, lambda p: generic(p).replace("attn.", "attn_")), tmp_path, "a")
    check(path, write(named(made, generic), tmp_path, "b"), model, tmp_path)
    attentions = [p for p in made if "attn." in p]
    (note,) = fit_notes(model, None, load(path))
    assert f"{len(attentions)} of {len(made)} layers have names that" in note


def test_z_image_converted_for_comfyui_is_load_lora_bit_for_bit(tmp_path):
    """`convert_z_image_lora_to_comfy.py` lays q, k and v of a layer into one, of three ranks."""
    model = tiny_dit("z_image")
    layers = {
        path: tuple(module.weight.shape)
        for path, module in model.model.diffusion_model.named_modules()
        if re.fullmatch(r"layers\.\d+\.(attention|feed_forward)\.\w+", path)
        and isinstance(module, torch.nn.Linear)
    }
    made = {p: lora(s, 10 * i, rank=9) for i, (p, s) in enumerate(layers.items())}
    path = write(named(made, musubi), tmp_path)
    check(path, path, model, tmp_path)
    assert fit_notes(model, None, load(path)) == ()
