"""Names that trainers give the layers of diffusion transformers, q, k and v apart and fused."""

import comfy.lora
import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.records import Concept, WeightedConcept
from support.dit_models import TINY, dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import WHOLE, error, region, text_of, with_regions

OWN = ("lora_unet_{_}", "diffusion_model.{}", "model.diffusion_model.{}", "lycoris_{_}")
DIFFUSERS = (
    "transformer.{}",
    "lora_transformer_{_}",
    "lycoris_{_}",
    "base_model.model.{}",
    "{}",
)
# Path as in the file -> module of the model, and which third (or rows) of its weight.
Q, K, V = (0, 1), (1, 1), (2, 1)
FLUX = {
    "transformer_blocks.0.attn.to_q": ("double_blocks.0.img_attn.qkv", Q),
    "transformer_blocks.0.attn.to_k": ("double_blocks.0.img_attn.qkv", K),
    "transformer_blocks.0.attn.to_v": ("double_blocks.0.img_attn.qkv", V),
    "transformer_blocks.1.attn.add_q_proj": ("double_blocks.1.txt_attn.qkv", Q),
    "transformer_blocks.1.attn.add_k_proj": ("double_blocks.1.txt_attn.qkv", K),
    "transformer_blocks.1.attn.add_v_proj": ("double_blocks.1.txt_attn.qkv", V),
    "transformer_blocks.0.attn.to_out.0": ("double_blocks.0.img_attn.proj", None),
    "transformer_blocks.0.attn.to_add_out": ("double_blocks.0.txt_attn.proj", None),
    "single_transformer_blocks.0.attn.to_q": ("single_blocks.0.linear1", Q),
    "single_transformer_blocks.0.attn.to_v": ("single_blocks.0.linear1", V),
    "single_transformer_blocks.0.proj_out": ("single_blocks.0.linear2", None),
}
Z_IMAGE = {
    "layers.0.attention.to_q": ("layers.0.attention.qkv", Q),
    "layers.0.attention.to_k": ("layers.0.attention.qkv", K),
    "layers.0.attention.to_v": ("layers.0.attention.qkv", V),
    "layers.1.attention.to_out.0": ("layers.1.attention.out", None),
    "context_refiner.0.attention.to_k": ("context_refiner.0.attention.qkv", K),
    "noise_refiner.0.attention.to_v": ("noise_refiner.0.attention.qkv", V),
    "layers.0.feed_forward.w1": ("layers.0.feed_forward.w1", None),
}
QWEN = {
    name: (name, None)
    for name in (
        "transformer_blocks.0.attn.to_q",
        "transformer_blocks.0.attn.to_out.0",
        "transformer_blocks.1.attn.add_k_proj",
        "transformer_blocks.1.attn.to_add_out",
        "transformer_blocks.0.img_mlp.net.0.proj",
        "transformer_blocks.0.txt_mlp.net.2",
    )
}
APART = {"flux": FLUX, "chroma": FLUX, "z_image": Z_IMAGE, "qwen_image": QWEN}


def written(pattern: str, path: str) -> str:
    return pattern.replace("{_}", path.replace(".", "_")).replace("{}", path)


def weight_of(model, path: str) -> torch.Tensor:
    return model.model.diffusion_model.get_submodule(path).weight


def bound_to(model, names):
    deltas = {name: LowRank(torch.ones(1, into), torch.ones(out, 1)) for name, out, into in names}
    return bind(model, None, WeightedConcept(Concept("anna", (), {}, deltas, None)))


@pytest.mark.parametrize("pattern", OWN)
@pytest.mark.parametrize("name", TINY)
def test_the_models_own_paths_lead_to_their_layers(name, pattern):
    model = tiny_dit(name)
    linears = {
        path: module.weight.shape
        for path, module in model.model.diffusion_model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    bound = bound_to(model, [(written(pattern, path), *shape) for path, shape in linears.items()])
    found = {(site.path.removeprefix("diffusion_model."), site.part) for site in bound.model}
    assert found == {(path, None) for path in linears}


@pytest.mark.parametrize("pattern", DIFFUSERS)
@pytest.mark.parametrize("name", APART)
def test_diffusers_names_lead_to_the_rows_of_the_fused_layers(name, pattern):
    model = tiny_dit(name)
    width = {"z_image": 256}.get(name, 32)
    names, expected = [], set()
    for path, (own, third) in APART[name].items():
        out, into = weight_of(model, own).shape
        part = None if third is None else (third[0] * width, width)
        names.append((written(pattern, path), part[1] if part else out, into))
        expected.add((own, part))
    bound = bound_to(model, names)
    found = {(site.path.removeprefix("diffusion_model."), site.part) for site in bound.model}
    assert found == expected
    assert not bound.left


@pytest.mark.parametrize("name", ["flux", "z_image"])
def test_apart_and_fused_draw_the_same_everywhere_and_in_regions(name):
    model = tiny_dit(name)
    generator = torch.Generator().manual_seed(0)
    apart, fused = {}, {}
    paths = {own: [] for own, third in APART[name].values() if third is not None}
    for path, (own, third) in APART[name].items():
        if third is not None:
            paths[own].append((third[0], path))
    for own, thirds in paths.items():
        if len(thirds) != 3:
            continue
        out, into = weight_of(model, own).shape
        width = out // 3
        ups = []
        for third, path in sorted(thirds):
            down = torch.randn(4, into, generator=generator) / into**0.5
            up = torch.randn(width, 4, generator=generator)
            apart[written("transformer.{}", path)] = LowRank(down, up)
            whole = torch.zeros(out, 4)
            whole[third * width : (third + 1) * width] = up
            ups.append((down, whole))
        fused[written("lora_unet_{_}", own)] = LowRank(
            torch.cat([down for down, _ in ups]), torch.cat([up for _, up in ups], 1)
        )
    pictures = []
    both = dit_conditioning(name, 1), dit_conditioning(name, 2)
    for deltas in (apart, fused):
        assert deltas
        concept = WeightedConcept(Concept("anna", (), {}, deltas, None))
        merged, _ = apply_to(model, concept)
        drawn = region(WHOLE, text_of(name, 1, 2), bind(model, None, concept))
        pictures += [draw_dit(m, name, *both) for m in (merged, with_regions(model, (drawn,)))]
    plain = draw_dit(model, name, *both)
    assert error(pictures[0], plain) > 0.01
    assert all(error(picture, pictures[0]) <= 1e-4 for picture in pictures[1:])


@pytest.mark.parametrize("end", [".diff_b", ".lora_B.bias"])
def test_a_bias_of_a_part_of_a_fused_layer_acts_on_its_rows_alone(end, tmp_path):
    """ComfyUI's Load LoRA loses it."""
    model, name, width = tiny_dit("flux"), "transformer.transformer_blocks.0.attn.to_k", 32
    weights = model.model.state_dict()
    own = "diffusion_model.double_blocks.0.img_attn.qkv"
    bias = torch.linspace(1, 2, width)
    tensors = {
        f"{name}.lora_A.weight": torch.ones(1, weights[f"{own}.weight"].shape[1]),
        f"{name}.lora_B.weight": torch.ones(width, 1),
        f"{name}{end}": bias,
    }
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    concept = WeightedConcept(read_any(tmp_path / "x.safetensors"), 0.5)
    merged, _ = apply_to(model, concept)
    added = {
        key: comfy.lora.calculate_weight(patches, weights[key].clone(), key) - weights[key]
        for key, patches in merged.patches.items()
    }
    assert set(added) == {f"{own}.weight", f"{own}.bias"}
    expected = torch.zeros(3 * width)
    expected[width : 2 * width] = 0.5 * bias
    torch.testing.assert_close(added[f"{own}.bias"], expected)
    both = dit_conditioning("flux", 1), dit_conditioning("flux", 2)
    drawn = region(WHOLE, text_of("flux", 1, 2), bind(model, None, concept))
    expected = draw_dit(merged, "flux", *both)
    assert error(draw_dit(with_regions(model, (drawn,)), "flux", *both), expected) <= 1e-4
    del tensors[f"{name}{end}"]
    safetensors.torch.save_file(tensors, tmp_path / "y.safetensors")
    without = WeightedConcept(read_any(tmp_path / "y.safetensors"), 0.5)
    assert error(draw_dit(apply_to(model, without)[0], "flux", *both), expected) > 1e-3


def apply_to(model, concept):
    from mix_of_show.mos_core.patch.apply import apply_to_model

    return apply_to_model(model, (concept,)), None
