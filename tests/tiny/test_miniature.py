"""Miniature checkpoints: what is loaded is what was stored, and a wrong file is told apart."""

import json

import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.formats.miniature_file import (
    complete_token_table,
    read_miniature_metadata,
)
from mix_of_show.mos_core.patch.host.miniature import load_miniature


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """The golden models as a miniature checkpoint."""
    from support.server_models import write_checkpoint

    path = tmp_path_factory.mktemp("miniature") / "golden.safetensors"
    write_checkpoint(path)
    return path


@pytest.fixture(scope="module")
def loaded(path):
    return load_miniature(path)


@pytest.fixture
def parts(path):
    """The file's tensors and its record, to be changed and written again."""
    return safetensors.torch.load_file(path), read_miniature_metadata(path)


def write(tmp_path, tensors, record):
    path = tmp_path / "changed.safetensors"
    safetensors.torch.save_file(tensors, path, {"mos_miniature": json.dumps(record)})
    return path


def test_every_weight_of_unet_and_vae_is_the_stored_one(path, loaded):
    model, _, vae = loaded
    stored = safetensors.torch.load_file(path)
    for prefix, module in (
        ("model.diffusion_model.", model.model.diffusion_model),
        ("first_stage_model.", vae.first_stage_model),
    ):
        for name, weight in module.state_dict().items():
            assert torch.equal(weight.float(), stored[prefix + name].float()), name


def test_it_draws_with_comfyuis_own_sampler_and_is_in_fp32_on_the_cpu(loaded):
    import comfy.sample

    model, clip, vae = loaded
    with torch.inference_mode():
        text = [[clip.encode_from_tokens(clip.tokenize("a dog")), {}]]
        noise = torch.randn(1, 4, 8, 24, generator=torch.Generator().manual_seed(0))
        latent = comfy.sample.sample(
            model, noise, 2, 2.0, "euler", "normal", text, text, torch.zeros_like(noise)
        )
        picture = vae.decode(latent)
    assert latent.isfinite().all()
    assert picture.shape == (1, 64, 192, 3)
    assert model.model.get_dtype() == torch.float32


def test_it_has_the_16_cross_attention_layers_of_sd15_and_lora_key_maps(loaded):
    import comfy.lora

    model, clip, _ = loaded
    names = [n for n, _ in model.model.diffusion_model.named_modules() if n.endswith("attn2")]
    assert len(names) == 16
    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k" in keys
    assert "lora_te_text_model_encoder_layers_0_mlp_fc1" in comfy.lora.model_lora_keys_clip(
        clip.cond_stage_model, {}
    )


def test_the_stock_tokenizer_takes_embeddings_of_the_models_width(loaded):
    _, clip, _ = loaded
    assert clip.tokenizer.clip_l.embedding_size == 32


def test_learned_rows_are_kept_and_all_others_are_their_mean():
    table = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    full = complete_token_table(table, torch.tensor([7, 49407]))
    assert full.shape == (49408, 2)
    assert full[7].tolist() == [1.0, 2.0]
    assert full[49407].tolist() == [3.0, 6.0]
    assert full[0].tolist() == full[49406].tolist() == [2.0, 4.0]


def test_a_table_without_row_numbers_holds_the_first_tokens():
    full = complete_token_table(torch.tensor([[1.0], [3.0]]), None)
    assert full[:3, 0].tolist() == [1.0, 3.0, 2.0]


@pytest.mark.parametrize("rows", [[1], [1, 49408], [-1, 2]])
def test_row_numbers_that_do_not_fit_are_refused(rows):
    with pytest.raises(FileFormatError, match="2 rows"):
        complete_token_table(torch.ones(2, 4), torch.tensor(rows))


def test_another_safetensors_file_is_no_miniature_checkpoint(tmp_path):
    path = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"x": torch.ones(2)}, path)
    with pytest.raises(FileFormatError, match="not a miniature checkpoint"):
        load_miniature(path)


def test_a_damaged_file_and_a_missing_one_are_told(tmp_path, path):
    damaged = tmp_path / "cut.safetensors"
    damaged.write_bytes(path.read_bytes()[:5000])
    for file in (damaged, tmp_path / "none.safetensors"):
        with pytest.raises(FileFormatError, match=r"cannot be read as \.safetensors"):
            load_miniature(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 3}, "version 3"),
        ({"version": 2}, r"cannot be read \(KeyError\('family'\)\)"),
        ({"vae": "kl-f8"}, "kind 'kl-f8'"),
        ({"unet": {"model_channels": 32}}, "configuration lacks: channel_mult"),
        ({"text_encoder": {}}, "configuration lacks: hidden_size"),
    ],
)
def test_a_record_that_cannot_be_followed_is_refused(tmp_path, parts, change, message):
    tensors, record = parts
    with pytest.raises(FileFormatError, match=message):
        load_miniature(write(tmp_path, tensors, {**record, **change}))


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("model.diffusion_model.out.2.weight", None, "UNet lacks weights: out.2.weight"),
        ("model.diffusion_model.out.2.bias", torch.ones(5), "misshapen weights: out.2.bias"),
        ("model.diffusion_model.strange", torch.ones(1), "unknown weights: strange"),
    ],
)
def test_weights_that_do_not_fit_the_record_are_refused(tmp_path, parts, key, tensor, message):
    tensors, record = parts
    if tensor is None:
        del tensors[key]
    else:
        tensors[key] = tensor
    with pytest.raises(FileFormatError, match=message):
        load_miniature(write(tmp_path, tensors, record))


def test_a_file_without_a_vae_is_incomplete(tmp_path, parts):
    tensors, record = parts
    tensors = {k: v for k, v in tensors.items() if not k.startswith("first_stage_model.")}
    with pytest.raises(FileFormatError, match="no weights under 'first_stage_model"):
        load_miniature(write(tmp_path, tensors, record))
