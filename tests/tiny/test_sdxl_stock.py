"""Ordinary SDXL LoRA files on tiny SDXL models, against ComfyUI's own Load LoRA; and the sizes that
SDXL is drawn in."""

import comfy.sd
import comfy.utils
import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention
from support.sampling import encode, sample
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import G_WIDTH, L_WIDTH, TEXT_WIDTH, tiny_sdxl, tiny_sdxl_clip

MODULES = {  # kohya's names -> (out, in)
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (32, TEXT_WIDTH),
    "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj": (256, 32),
    "lora_unet_middle_block_1_transformer_blocks_3_attn1_to_q": (32, 32),
    "lora_unet_output_blocks_0_1_proj_in": (32, 32),
    "lora_te1_text_model_encoder_layers_0_self_attn_q_proj": (L_WIDTH, L_WIDTH),
    "lora_te2_text_model_encoder_layers_1_mlp_fc1": (2 * G_WIDTH, G_WIDTH),
}
SIZES = [(128, 128), (152, 104), (104, 152), (96, 168)]  # 1024x1024, 832x1216, 1216x832, 1344x768


@pytest.fixture(scope="module")
def clip():
    return tiny_sdxl_clip()


@pytest.fixture
def file(tmp_path):
    """An SDXL LoRA as kohya's trainer writes it."""
    generator, tensors = torch.Generator().manual_seed(0), {}
    for name, (out, into) in MODULES.items():
        tensors[name + ".lora_down.weight"] = torch.randn(3, into, generator=generator) * 0.3
        tensors[name + ".lora_up.weight"] = torch.randn(out, 3, generator=generator) * 0.3
        tensors[name + ".alpha"] = torch.tensor(2.0)
    path = tmp_path / "knight.safetensors"
    safetensors.torch.save_file(tensors, path, {"ss_base_model_version": "sdxl_base_v1-0"})
    return path


def picture(model, clip, size=(16, 24), **options):
    return sample(model, encode(clip, "a knight"), encode(clip, ""), size=size, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("strengths", [(1.0, 1.0), (0.7, -0.4)])
def test_a_lora_applied_is_that_lora_loaded_bit_for_bit(dtype, strengths, clip, file):
    model = tiny_sdxl(dtype=dtype)
    entry = WeightedConcept(read_concept(file), *strengths)
    found = apply_concepts(model, clip, (entry,))
    lora = comfy.utils.load_torch_file(str(file))
    stock = comfy.sd.load_lora_for_models(model, clip, lora, *strengths)
    assert len(stock[0].patches) == 4
    assert len(stock[1].patcher.patches) == 2
    expected = picture(*stock)
    assert torch.equal(picture(*found), expected)
    assert not torch.equal(expected, picture(model, clip))


def test_at_strength_zero_it_is_the_plain_model_bit_for_bit(clip, file):
    model = tiny_sdxl()
    found = apply_concepts(model, clip, (WeightedConcept(read_concept(file), 0.0, 0.0),))
    assert torch.equal(picture(*found), picture(model, clip))


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{8 * size[1]}x{8 * size[0]}")
def test_one_region_over_everything_is_the_lora_in_sdxls_own_sizes(size, clip):
    """And two regions draw something else, all of it finite."""
    model = tiny_sdxl()
    queen = tiny_concept(model, clip, "queen", 1, tables=False)
    height, width = (8 * side for side in size)

    def drawn(*regions):
        laid = Regions(width, height, regions)
        options = {"guidance_steps": 0, "reinitialise": False}
        given, coder, *_ = ComposerAttention.execute(model, clip, (queen,), laid, **options).args
        positive = encode(coder, "a field")
        return sample(given, positive, positive, size=size, cfg=1.0, steps=1)

    found = drawn(Region("a queen", box=Box(0, 0, 1, 1), concept="queen"))
    own, words = apply_concepts(model, clip, (queen,))
    positive = encode(words, "a queen")
    expected = sample(own, positive, positive, size=size, cfg=1.0, steps=1)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-4
    half = drawn(Region("a queen", box=Box(0, 0, 0.5, 1), concept="queen"))
    assert torch.isfinite(half).all()
    assert not torch.equal(half, found)
