"""A concept meets a model: the sites of its deltas, by ComfyUI's own names."""

from dataclasses import replace

import comfy.lora
import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.deltas import LowRank, Whole
from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families.unet import SD15, comfy_text_key, comfy_unet_key
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.bind import NOT_HERE, bind
from mix_of_show.mos_core.patch.host.names import ModelNames, plain_name, target_of
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.patch.host.weights import merge_sites
from mix_of_show.mos_core.records import Concept, Site, WeightedConcept

BLOCK = "mid_block.attentions.0.transformer_blocks.0"
KEY = "diffusion_model.middle_block.1.transformer_blocks.0"


def ordinary(**deltas) -> Concept:
    return Concept("lora", ("knight",), {}, {n: d or pair() for n, d in deltas.items()}, None)


def pair(out=32, into=32, rank=2, seed=0):
    make = torch.Generator().manual_seed(seed)
    down = torch.randn(rank, into, generator=make)
    return LowRank(down, torch.randn(out, rank, generator=make))


def named(*names) -> Concept:
    return ordinary(**dict.fromkeys(names))


def test_an_edlora_is_bound_to_the_sites_of_its_table(unet, clip, concepts):
    concept = concepts["a"]
    bound = bind(unet, clip, WeightedConcept(concept, 0.5, 2.0))
    assert set(bound.model) == {Site(comfy_unet_key(m, SD15)) for m in concept.unet}
    assert set(bound.text) == {Site(comfy_text_key(m)) for m in concept.text}
    assert bound.left == {}
    for strength, factors, key, sites in (
        (0.5, concept.unet, lambda m: comfy_unet_key(m, SD15), bound.model),
        (2.0, concept.text, comfy_text_key, bound.text),
    ):
        for module, delta in factors.items():
            expected = strength * delta.matrix()
            torch.testing.assert_close(sites[Site(key(module))].matrix(), expected)


def test_strength_zero_binds_nothing(unet, clip, concepts):
    bound = bind(unet, clip, WeightedConcept(concepts["a"], 0.0, 0.0))
    assert not bound.model
    assert not bound.text


@pytest.mark.parametrize(
    "name",
    [
        f"lora_unet_{BLOCK.replace('.', '_')}_attn2_to_out_0",
        f"lora_unet_{KEY.removeprefix('diffusion_model.').replace('.', '_')}_attn2_to_out_0",
        f"{KEY}.attn2.to_out.0",
        f"unet.{BLOCK}.attn2.processor.to_out",
        f"unet.{BLOCK}.attn2.to_out.0",
        f"{BLOCK}.attn2.to_out.0",
        f"base_model.model.{BLOCK}.attn2.to_out.0",
        f"lycoris_{BLOCK.replace('.', '_')}_attn2_to_out_0",
        f"model.{KEY}.attn2.to_out.0",
    ],
)
def test_every_trainers_name_of_a_module_leads_to_it(name, unet):
    bound = bind(unet, None, WeightedConcept(named(name)))
    assert set(bound.model) == {Site(f"{KEY}.attn2.to_out.0.weight")}


@pytest.mark.parametrize(
    "start", ["lora_te_", "lora_te1_", "text_encoder.", "text_encoders.clip_l.transformer."]
)
def test_every_trainers_name_of_a_text_module_leads_to_it(start, clip):
    module = "text_model.encoder.layers.1.mlp.fc2"
    name = start + (module.replace(".", "_") if start.endswith("_") else module)
    concept = Concept("lora", (), {}, {name: pair(32, 64)}, None)
    bound = bind(None, clip, WeightedConcept(concept))
    assert set(bound.text) == {Site(comfy_text_key(module))}


def test_names_that_comfyui_knows_are_taken_as_it_takes_them(unet):
    known = comfy.lora.model_lora_keys_unet(unet.model, {})
    names = ModelNames(known)
    assert all(names.find(name).host == host for name, host in known.items())


def test_encoders_of_one_model_stay_apart():
    names = ["lora_te1_a_b", "lora_te2_a_b", "text_encoder_2.a.b", "lora_te_a_b", "lora_unet_a_b"]
    assert len({plain_name(name) for name in names}) == 3
    assert plain_name("lora_te2_a_b") == plain_name("text_encoder_2.a.b")


def test_a_slice_of_a_fused_weight_is_a_site_of_its_own():
    assert target_of(("a.qkv.weight", (0, 4, 8))).site == Site("a.qkv.weight", (4, 8))
    with pytest.raises(ArchitectureError, match="columns"):
        target_of(("a.qkv.weight", (1, 4, 8)))


def test_what_leads_nowhere_is_told(unet, clip):
    concept = named(f"unet.{BLOCK}.attn2.to_q", "unet.nowhere")
    bound = bind(unet, clip, WeightedConcept(concept))
    assert bound.left == {"unet.nowhere": NOT_HERE}
    only_text = named("lora_te_text_model_encoder_layers_0_self_attn_q_proj")
    assert "text encoder" in next(iter(bind(unet, None, WeightedConcept(only_text)).left.values()))


def test_a_file_of_which_nothing_fits_is_refused(unet, clip):
    with pytest.raises(ArchitectureError, match=r"'unet.nowhere'.*and 1 more.*another base"):
        bind(unet, clip, WeightedConcept(named("unet.nowhere", "unet.neither")))


def test_an_edlora_of_which_something_is_missing_is_refused(unet, clip, concepts):
    concept = concepts["a"]
    concept = replace(concept, deltas={**concept.deltas, "unet.nowhere": pair()})
    with pytest.raises(ArchitectureError, match=r"'unet.nowhere', which this model does not have;"):
        bind(unet, clip, WeightedConcept(concept))


def test_a_delta_of_another_shape_is_refused(unet):
    concept = ordinary(**{f"unet.{BLOCK}.attn2.to_q": pair(64, 32)})
    with pytest.raises(ArchitectureError, match="is 32 x 32 here, 64 x 32 in 'lora'"):
        bind(unet, None, WeightedConcept(concept))


def test_bound_deltas_merge_as_the_file_does(unet, concepts):
    concept, factors = concepts["a"], pair()
    conv = LowRank(factors.down[..., None, None], factors.up[..., None, None])
    concept = replace(
        concept, deltas={**concept.deltas, "unet.mid_block.attentions.0.proj_in": conv}
    )
    bound = bind(unet, None, WeightedConcept(concept, 0.5))
    ours = unet.clone()
    merge_sites(ours, bound.model, "a")
    whole = unet.clone()
    merge_sites(whole, {s: Whole(d.matrix()) for s, d in bound.model.items()}, "a")
    for key in (f"{KEY}.attn2.to_k.weight", "diffusion_model.middle_block.1.proj_in.weight"):
        weight = unet.model.state_dict()[key]
        delta = bound.model[Site(key)].matrix().reshape(weight.shape)
        for patcher in (ours, whole):
            found = comfy.lora.calculate_weight(patcher.patches[key], weight.clone(), key)
            torch.testing.assert_close(found, weight + delta)
    assert set(ours.patches) == {site.key for site in bound.model}
    assert not unet.patches


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("lora_unet_double_blocks_0_img_mod_lin",),
            r"made for Flux\.1, this MODEL is SD1\.5; load",
        ),
        (
            ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k",),
            "made for SDXL, this MODEL",
        ),
        (("diffusion_model.layers.3.attention.to_q",), r"another base model: Z-Image or Lumina 2"),
    ],
)
def test_a_lora_of_another_base_is_refused_by_name(names, message, unet, clip, tmp_path):
    tensors = {}
    for name in names:
        tensors[f"{name}.lora_down.weight"] = torch.ones(2, 2048)
        tensors[f"{name}.lora_up.weight"] = torch.ones(64, 2)
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    concept = read_any(tmp_path / "x.safetensors")
    for use in (bind, lambda m, c, e: apply_concepts(m, c, (e,))):
        with pytest.raises(ArchitectureError, match=message):
            use(unet, clip, WeightedConcept(concept))
