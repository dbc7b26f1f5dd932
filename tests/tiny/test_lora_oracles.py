"""What the trainers' own packages put around a layer is what this pack reads from their files.

PEFT and LyCORIS are installed for development only. A layer is wrapped by them and given random
factors, its file is written with the names that they save, and read here.
"""

import comfy.utils
import pytest
import safetensors.torch
import torch
from torch import nn

from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.records import WeightedConcept
from support.lora_files import random

from .test_any_lora import COMFY_NAMES, merged

pytest.importorskip("peft")
pytest.importorskip("lycoris")
LINEAR = "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.0.proj"
CONVOLUTION = "mid_block.resnets.0.conv1"


def layer_of(unet, module):
    return comfy.utils.get_attr(unet.model, f"diffusion_model.{COMFY_NAMES[module]}")


def twin(layer):
    """An ordinary PyTorch layer with the same weights."""
    with torch.inference_mode(False):
        if hasattr(layer, "kernel_size"):
            size = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride)
            own = nn.Conv2d(*size, layer.padding)
        else:
            own = nn.Linear(layer.in_features, layer.out_features)
        own.weight.data.copy_(layer.weight)
        own.bias.data.copy_(layer.bias)
    return own


def fill(module, seed=0, scale=0.1):
    """Random values for everything that can be trained."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad or "oft" in name:
            noise = torch.randn(parameter.shape, generator=generator) * scale
            whole = "magnitude" in name or "dora_scale" in name or name in ("weight", "bias")
            near = parameter.data if whole else 0
            parameter.data = near + noise


def check(tensors, module, wrapped, unet, clip, tmp_path):
    """The file's delta on the golden UNet: beside the layer, and merged by Apply Concepts."""
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file({n: t.contiguous() for n, t in tensors.items()}, path)
    concept = read_any(path)
    assert not concept.unused
    layer = layer_of(unet, module)
    shape = (2, 32, 6, 8) if hasattr(layer, "kernel_size") else (2, 5, layer.in_features)
    x = random(*shape, seed=9, scale=1.0)
    with torch.no_grad():
        expected = wrapped(x.clone())
    bound = bind(unet, None, WeightedConcept(concept))
    ((site, delta),) = {**bound.model, **bound.maps}.items()
    added = delta.on_map(x, layer) if site in bound.maps else delta.on_rows(x)
    torch.testing.assert_close(layer(x) + added, expected, rtol=1e-4, atol=1e-4)
    model, _ = apply_concepts(unet, clip, (WeightedConcept(concept),))
    other = twin(layer)
    for key, weight in merged(model).items():
        getattr(other, key.rsplit(".", 1)[1]).data = weight
    with torch.no_grad():
        torch.testing.assert_close(other(x), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(layer(x), expected, atol=1e-2)


@pytest.fixture(autouse=True)
def ordinary_tensors():
    with torch.inference_mode(False):
        yield


# ------------------------------------------------------------------------------------- PEFT


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
def test_a_lora_of_peft(module, dora, unet, clip, tmp_path):
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    base = nn.ModuleDict({"layer": twin(layer_of(unet, module))})
    base.forward = lambda x: base["layer"](x)
    config = LoraConfig(r=4, lora_alpha=4, target_modules=["layer"], use_dora=dora)
    model = get_peft_model(base, config)
    fill(model)
    saved = get_peft_model_state_dict(model)
    assert any("magnitude" in name for name in saved) == dora
    for start in ("unet.", "base_model.model."):
        tensors = {n.replace("base_model.model.layer", start + module): t for n, t in saved.items()}
        check(tensors, module, model.base_model.model["layer"], unet, clip, tmp_path)


def test_the_rotations_of_peft_and_onetrainer(unet, clip, tmp_path):
    from peft import OFTConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    base = nn.ModuleDict({"layer": twin(layer_of(unet, LINEAR))})
    base.forward = lambda x: base["layer"](x)
    for share in (False, True):
        config = OFTConfig(r=0, oft_block_size=8, target_modules=["layer"], block_share=share)
        model = get_peft_model(base, config)
        fill(model, scale=0.05)
        saved = get_peft_model_state_dict(model)
        kohya = "lora_unet_" + LINEAR.replace(".", "_")
        tensors = {n.replace("base_model.model.layer", kohya): t for n, t in saved.items()}
        assert any(name.endswith("oft_R.weight") for name in tensors)
        check(tensors, LINEAR, model.base_model.model["layer"], unet, clip, tmp_path)
        base = model.unload()
        base.forward = lambda x, own=base: own["layer"](x)


# ------------------------------------------------------------------------------------- LyCORIS

MODULES = {
    "LoCon": ("locon", "LoConModule", {}),
    "LoCon with tucker": ("locon", "LoConModule", {"use_tucker": True}),
    "LoHa": ("loha", "LohaModule", {}),
    "LoHa with tucker": ("loha", "LohaModule", {"use_tucker": True}),
    "LoKr": ("lokr", "LokrModule", {"factor": 4}),
    "LoKr of small factors": ("lokr", "LokrModule", {"factor": 4, "decompose_both": True}),
    "GLoRA": ("glora", "GLoRAModule", {}),
    "OFT": ("diag_oft", "DiagOFTModule", {}),
    "BOFT": ("boft", "ButterflyOFTModule", {}),
    "full": ("full", "FullModule", {}),
}


@pytest.mark.parametrize("module", [LINEAR, CONVOLUTION])
@pytest.mark.parametrize("algorithm", MODULES)
def test_a_module_of_lycoris(algorithm, module, unet, clip, tmp_path):
    import importlib

    file, kind, options = MODULES[algorithm]
    layer = twin(layer_of(unet, module))
    cls = getattr(importlib.import_module(f"lycoris.modules.{file}"), kind)
    name = "lora_unet_" + module.replace(".", "_")
    own = cls(name, layer, lora_dim=4, alpha=2, **options)
    own.apply_to()
    fill(own, scale=0.4 if algorithm.startswith("LoHa") else 0.1)
    own.eval()
    saved = {n: t.detach().clone() for n, t in own.state_dict().items()}
    tensors = {f"{name}.{n}": t for n, t in saved.items() if not n.startswith("org")}
    check(tensors, module, layer, unet, clip, tmp_path)
