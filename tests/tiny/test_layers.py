"""The layer table against ComfyUI's own key maps, and against a UNet that runs."""

import comfy.lora
import comfy.model_base
import comfy.supported_models
import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.unet import (
    SD15,
    SDXL,
    architecture_by_layers,
    comfy_text_key,
    comfy_unet_key,
    layers_of,
)
from support.golden import read_meta, read_parts
from support.tiny_models import SD15_UNET, WIDTH, empty_clip, empty_unet

SDXL_UNET = {
    **SD15_UNET,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "model_channels": 320,
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
}
CONFIGS = {
    "sd15": {**SD15_UNET, "model_channels": 320, "context_dim": 768, "channel_mult": [1, 2, 4, 4]},
    "sdxl": SDXL_UNET,
}
ARCHITECTURES = {"sd15": SD15, "sdxl": SDXL}
IN_BLOCK = [f"attn{a}.{m}" for a in (1, 2) for m in ("to_q", "to_k", "to_v", "to_out.0")]
IN_BLOCK += ["ff.net.0.proj", "ff.net.2"]


def modules_of(architecture):
    """Every diffusers module name that a concept may change."""
    for layer in architecture.layers:
        for module in IN_BLOCK:
            yield f"{layer.diffusers}.transformer_blocks.{layer.depth}.{module}"
        if layer.depth == 0:
            yield f"{layer.diffusers}.proj_in"
            yield f"{layer.diffusers}.proj_out"


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_module_has_the_key_that_comfyuis_diffusers_map_gives_it(name):
    oracle = comfy.utils.unet_to_diffusers(CONFIGS[name])
    for module in modules_of(ARCHITECTURES[name]):
        expected = "diffusion_model." + oracle[module + ".weight"]
        assert comfy_unet_key(module, ARCHITECTURES[name]) == expected


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_transformer_weight_of_comfyuis_map_is_left_out(name):
    oracle = comfy.utils.unet_to_diffusers(CONFIGS[name])
    known = {key.removesuffix(".weight") for key in oracle if ".attentions." in key}
    weights = {k for k in known if not k.endswith(".bias") and "norm" not in k}
    assert weights == set(modules_of(ARCHITECTURES[name]))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_module_has_the_key_that_comfyuis_lora_loader_gives_it(name):
    kind = {"sd15": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[name]
    with torch.device("meta"):
        config = kind(dict(CONFIGS[name]))
        config.set_inference_dtype(torch.float16, None)
        model = config.get_model({}, "", device="meta")
    oracle = comfy.lora.model_lora_keys_unet(model, {})
    for module in modules_of(ARCHITECTURES[name]):
        kohya = "lora_unet_" + module.replace(".", "_")
        assert comfy_unet_key(module, ARCHITECTURES[name]) == oracle[kohya]


def test_every_text_module_has_the_key_that_comfyuis_lora_loader_gives_it():
    clip = empty_clip()
    oracle = comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {})
    weights = clip.cond_stage_model.state_dict()
    modules = [k for k in read_parts("edlora_v")["text_encoder"] if k.endswith("up.weight")]
    assert len(modules) == 12
    for key in modules:
        module = key.removesuffix(".lora_up.weight")
        assert comfy_text_key(module) == oracle["lora_te_" + module.replace(".", "_")]
        assert comfy_text_key(module) in weights


@pytest.mark.parametrize(
    "module",
    [
        "down_blocks.0.resnets.0.conv1",
        "down_blocks.3.attentions.0.proj_in",
        "mid_block.attentions.1.proj_in",
        "mid_block.attentions.0.transformer_blocks.1.attn1.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn3.to_q",
        "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_down",
        "xmid_block.attentions.0.proj_in",
        "",
    ],
)
def test_what_is_no_module_of_the_architecture_has_no_key(module):
    assert comfy_unet_key(module, SD15) is None


@pytest.mark.parametrize(
    "module",
    ["text_model.embeddings.token_embedding", "text_model.encoder.layers.0.layer_norm1", ""],
)
def test_what_is_no_layer_of_the_text_encoder_has_no_key(module):
    assert comfy_text_key(module) is None


def test_the_order_of_the_table_is_the_references_order():
    names = [f"{x.diffusers}.transformer_blocks.{x.depth}.attn2" for x in SD15.layers]
    assert names == read_meta()["cross_attention_order"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_order_of_the_table_is_the_order_in_which_the_unet_runs(name):
    changes = {**CONFIGS[name], "model_channels": WIDTH, "context_dim": WIDTH}
    changes |= {"channel_mult": [1] * len(changes["channel_mult"]), "adm_in_channels": None}
    changes |= {"num_classes": None}
    patcher = empty_unet(**changes)
    for weight in patcher.model.parameters():
        weight.zero_()
    seen = []

    def record(n, context, value, extra):
        seen.append((extra["block"], extra["block_index"]))
        return n, context, value

    patcher.set_model_attn2_patch(record)
    patcher.model.diffusion_model(
        torch.zeros(1, 4, 16, 16),
        torch.zeros(1),
        context=torch.zeros(1, 77, WIDTH),
        transformer_options=patcher.model_options["transformer_options"],
    )
    family, layers = family_of(patcher.model.model_config.unet_config)
    assert (family.name, layers) == (name, ARCHITECTURES[name].layers)
    assert seen == [(layer.block, layer.depth) for layer in layers]
    assert [layer.index for layer in layers] == list(range(len(seen)))


@pytest.mark.parametrize(("rows", "expected"), [(16, SD15), (70, SDXL)])
def test_the_number_of_rows_tells_the_architecture(rows, expected):
    assert architecture_by_layers(rows) is expected


def test_an_unknown_number_of_rows_is_refused_with_the_known_ones():
    with pytest.raises(ArchitectureError, match=r"24 rows.*sd15 has 16, sdxl has 70"):
        architecture_by_layers(24)


@pytest.mark.parametrize(
    "config", [{}, {"image_model": "flux"}, {**SD15_UNET, "transformer_depth": []}]
)
def test_a_model_that_is_no_such_unet_has_no_such_layers(config):
    assert layers_of(config) == ()


def test_a_unet_with_other_layers_is_of_the_family_of_the_others():
    family, layers = family_of({**SD15_UNET, "transformer_depth_middle": 0})
    assert (family.name, len(layers)) == ("sd", 15)
