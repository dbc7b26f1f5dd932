"""The seam of model families: which family a configuration is, and what its modules are."""

import pytest

from mix_of_show.mos_core.errors import ArchitectureError
from mix_of_show.mos_core.families import FAMILIES, family_named, family_of
from mix_of_show.mos_core.families.family import Role
from mix_of_show.mos_core.families.unet import SD15, SDXL

SD15_CONFIG = {
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
}
SDXL_CONFIG = {
    "num_res_blocks": [2, 2, 2],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
}
SSD1B_CONFIG = {
    **SDXL_CONFIG,
    "transformer_depth": [0, 0, 2, 2, 4, 4],
    "transformer_depth_middle": -1,
    "transformer_depth_output": [0, 0, 0, 1, 1, 2, 10, 4, 4],
}
SD2_CONFIG = {**SD15_CONFIG, "context_dim": 1024}


@pytest.mark.parametrize(
    ("config", "name", "layers"),
    [
        (SD15_CONFIG, "sd15", 16),
        ({**SD15_CONFIG, "context_dim": 32}, "sd15", 16),
        (SD2_CONFIG, "sd21", 16),
        (SDXL_CONFIG, "sdxl", 70),
        (SSD1B_CONFIG, "sd", 34),
    ],
)
def test_a_configuration_has_its_family_and_layers(config, name, layers):
    family, found = family_of(config)
    assert family.name == name
    assert len(found) == layers
    assert [layer.index for layer in found] == list(range(layers))
    assert len({layer.key for layer in found}) == len({layer.path for layer in found}) == layers


@pytest.mark.parametrize("config", [{}, {"image_model": "nothing"}, {"num_res_blocks": [2]}])
def test_a_model_of_no_family_is_refused_with_the_families_there_are(config):
    with pytest.raises(ArchitectureError, match=r"SD1\.5"):
        family_of(config)


def test_the_layers_of_a_family_are_those_of_its_concept_files():
    assert family_of(SD15_CONFIG)[1] == SD15.layers
    assert family_of(SDXL_CONFIG)[1] == SDXL.layers


def test_every_family_has_a_name_of_its_own():
    assert len({family.name for family in FAMILIES}) == len(FAMILIES)
    assert all(family_named(family.name) is family for family in FAMILIES)
    assert family_named("nothing") is None


BLOCK = "diffusion_model.input_blocks.1.1.transformer_blocks.0"
TEXT = "clip_l.transformer.text_model.encoder.layers.3"


@pytest.mark.parametrize(
    ("path", "role"),
    [
        (f"{BLOCK}.attn1.to_k", Role("image", f"{BLOCK}.attn1.qkv", "others", "attention")),
        (
            f"{BLOCK}.attn1.to_out.0",
            Role("image", f"{BLOCK}.attn1.to_out.0", "others", "attention"),
        ),
        (f"{BLOCK}.attn2.to_q", Role("image", f"{BLOCK}.attn2.to_q", "others", "attention")),
        (f"{BLOCK}.attn2.to_v", Role("text", f"{BLOCK}.attn2.kv", "keys and values", "attention")),
        (f"{BLOCK}.ff.net.2", Role("image", f"{BLOCK}.ff.net.2", "others", "feed forward")),
        (
            f"{TEXT}.self_attn.q_proj",
            Role("text", f"{TEXT}.self_attn.qkv", "text encoder", "attention"),
        ),
        (f"{TEXT}.mlp.fc1", Role("text", f"{TEXT}.mlp.fc1", "text encoder", "feed forward")),
        (f"{BLOCK}.norm1", None),
        ("diffusion_model.middle_block.0.emb_layers.1", ("sample", "embedding")),
        ("diffusion_model.time_embed.2", ("sample", "embedding")),
        ("diffusion_model.middle_block.0.in_layers.2", ("image", "convolution")),
        ("diffusion_model.middle_block.1.proj_in", ("image", "projection")),
        ("diffusion_model.input_blocks.3.0.op", ("image", "convolution")),
        ("something.else", None),
    ],
)
def test_a_modules_role_is_read_from_its_path(path, role):
    found = family_named("sd15").role(path)
    if isinstance(role, tuple):
        assert (found.stream, found.part) == role
    else:
        assert found == role
