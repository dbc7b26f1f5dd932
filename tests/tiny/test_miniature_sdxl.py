"""Miniature checkpoints of SDXL's shape: they load as ComfyUI's own SDXL, with everything stored,
and take an ordinary SDXL LoRA; a wrong file is refused by name."""

import comfy.latent_formats
import comfy.model_base
import comfy.sample
import comfy.sd
import comfy.sdxl_clip
import pytest
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from support.sdxl_files import CLIP_L, MODEL, RECORD, ROWS, sdxl_tensors, write_sdxl


@pytest.fixture(scope="module")
def tensors():
    return sdxl_tensors()


def write(folder, tensors, record):
    path = folder / "sdxl.safetensors"
    write_sdxl(path, tensors, record)
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tensors):
    return load_miniature(write(tmp_path_factory.mktemp("sdxl"), tensors, RECORD))


def test_every_weight_is_the_stored_one_in_comfyuis_own_classes(tensors, loaded):
    model, clip, vae = loaded
    assert type(model.model) is comfy.model_base.SDXL
    assert isinstance(model.model.latent_format, comfy.latent_formats.SDXL)
    assert isinstance(clip.cond_stage_model, comfy.sdxl_clip.SDXLClipModel)
    for module, prefix in (
        (model.model.diffusion_model, "model.diffusion_model."),
        (clip.cond_stage_model.clip_g, "text_encoders.clip_g."),
        (vae.first_stage_model, "first_stage_model."),
    ):
        for key, tensor in module.state_dict().items():
            if "token_embedding" not in key and "logit_scale" not in key:
                assert torch.equal(tensor.float(), tensors[prefix + key].float()), key
    for name in ("clip_l", "clip_g"):
        key = "transformer.text_model.embeddings.token_embedding.weight"
        table = getattr(clip.cond_stage_model, name).state_dict()[key]
        stored = tensors[f"text_encoders.{name}.{key}"]
        assert torch.equal(table[ROWS], stored)
        torch.testing.assert_close(table[5], stored.mean(0))


def test_it_is_sdxl_for_the_pack_with_all_seventy_layers(loaded):
    family, layers = family_of(loaded[0].model.model_config.unet_config)
    assert family.name == "sdxl"
    assert len(layers) == 70


def test_comfyuis_sampler_draws_with_it_and_reads_prompt_and_sizes(loaded):
    model, clip, vae = loaded
    noise = torch.randn(1, 4, 8, 12, generator=torch.Generator().manual_seed(1))

    def draw(prompt, **sizes):
        positive, negative = (
            [[cond, {**extra, **sizes}]]
            for text in (prompt, "")
            for cond, extra in clip.encode_from_tokens_scheduled(clip.tokenize(text))
        )
        with torch.inference_mode():
            latent = comfy.sample.sample(
                model, noise, 2, 2.0, "euler", "simple", positive, negative,
                torch.zeros_like(noise), disable_pbar=True, seed=1,
            )  # fmt: skip
            return latent, vae.decode(latent)

    latent, picture = draw("a cat")
    assert picture.shape == (1, 64, 96, 3)
    assert torch.isfinite(picture).all()
    assert not torch.equal(latent, draw("the")[0])
    assert not torch.equal(latent, draw("a cat", width=512, height=96)[0])


def test_an_ordinary_lora_reaches_unet_and_both_encoders(loaded):
    model, clip, _ = loaded
    lora = {}
    for name, (into, out) in {
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k": (40, 32),
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (16, 32),
        "lora_te2_text_model_encoder_layers_2_self_attn_q_proj": (24, 24),
    }.items():
        lora[name + ".lora_down.weight"] = torch.ones(2, into)
        lora[name + ".lora_up.weight"] = torch.ones(out, 2)
    patched, patched_clip = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
    assert len(patched.patches) == 1
    assert len(patched_clip.patcher.patches) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"num_heads": 2}}, "UNet configuration lacks: model_channels, channel_mult"),
        ({"text_encoder": {"clip_l": CLIP_L}}, "text encoder configuration lacks: clip_g"),
        (
            {"text_encoder": {"clip_l": CLIP_L, "clip_g": {"hidden_size": 24}}},
            "clip_g text encoder configuration lacks: intermediate_size",
        ),
        ({"model": {**MODEL, "transformer_depth_middle": 11}}, "UNet lacks weights: middle"),
        (
            {"text_encoder": {"clip_l": CLIP_L, "clip_g": CLIP_L}},
            "UNet has misshapen weights",
        ),
    ],
)
def test_a_record_that_cannot_be_followed_is_refused(tmp_path, tensors, change, message):
    with pytest.raises(FileFormatError, match=message):
        load_miniature(write(tmp_path, tensors, {**RECORD, **change}))


def test_a_file_without_an_encoder_or_its_table_is_incomplete(tmp_path, tensors):
    without = {k: v for k, v in tensors.items() if "clip_g" not in k}
    with pytest.raises(FileFormatError, match=r"no weights under 'text_encoders\.clip_g"):
        load_miniature(write(tmp_path, without, RECORD))
    without = {k: v for k, v in tensors.items() if "clip_l" not in k or "token" not in k}
    with pytest.raises(FileFormatError, match="clip_l has no token table"):
        load_miniature(write(tmp_path, without, RECORD))
