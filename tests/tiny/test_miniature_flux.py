"""Miniature checkpoints of Flux.1's shape: what is loaded is what was stored, texts are padded to
the file's length, and ComfyUI's own sampler draws with it."""

import json
import re

import comfy.sample
import comfy.supported_models
import pytest
import safetensors.torch
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.patch.host.miniature_flux import T5_SHAPE, flux_config

MODEL = {"hidden_size": 32, "num_heads": 2, "axes_dim": [4, 6, 6], "depth": 1}
MODEL |= {"depth_single_blocks": 2, "context_in_dim": 24, "vec_in_dim": 20}
CLIP_L = {"hidden_size": 20, "intermediate_size": 40, "num_attention_heads": 2}
CLIP_L |= {"num_hidden_layers": 1}
T5 = {"d_model": 24, "d_ff": 48, "d_kv": 8, "num_heads": 3, "num_layers": 1, "min_length": 16}
RECORD = {
    "version": 2,
    "family": "flux",
    "model": MODEL,
    "text_encoder": {"clip_l": CLIP_L, "t5xxl": T5},
    "vae": "taesd",
}
CLIP_ROWS, T5_ROWS = [320, 2368, 49406, 49407], [0, 1, 3, 9, 1712]


def filled(module: torch.nn.Module, prefix: str, seed: int) -> dict[str, torch.Tensor]:
    """Small random weights under the module's names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        prefix + key: torch.randn(tensor.shape, generator=generator) * 0.1
        for key, tensor in module.state_dict().items()
    }


@pytest.fixture(scope="module")
def tensors():
    """Everything that a file of this shape holds."""
    from comfy.sd1_clip import SDClipModel
    from comfy.taesd.taesd import TAESD
    from comfy.text_encoders.sd3_clip import T5XXLModel

    config = comfy.supported_models.FluxSchnell(flux_config(MODEL))
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "", device="cpu").diffusion_model
    clip_l = SDClipModel(dtype=torch.float32, model_options={"clip_l_model_config": CLIP_L})
    sizes = {**T5_SHAPE, **{k: v for k, v in T5.items() if k != "min_length"}}
    t5 = T5XXLModel(dtype=torch.float32, model_options={"t5xxl_model_config": sizes})
    out = filled(model, "model.diffusion_model.", 1)
    for part, prefix, rows, name in (
        (clip_l, "text_encoders.clip_l.", CLIP_ROWS, "text_model.embeddings.token_embedding"),
        (t5, "text_encoders.t5xxl.", T5_ROWS, "shared"),
    ):
        weights = filled(part, prefix, 2)
        table = f"{prefix}transformer.{name}"
        weights[f"{table}.weight"] = weights[f"{table}.weight"][: len(rows)].clone()
        weights[f"{table}.rows"] = torch.tensor(rows)
        out |= {k: v for k, v in weights.items() if "logit_scale" not in k}
    return {**out, **filled(TAESD(latent_channels=16), "vae.", 3)}


def write(folder, tensors, record):
    path = folder / "flux.safetensors"
    metadata = {"mos_miniature": json.dumps(record)}
    safetensors.torch.save_file(tensors, path, metadata=metadata)
    return path


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, tensors):
    return load_miniature(write(tmp_path_factory.mktemp("flux"), tensors, RECORD))


def test_every_weight_is_the_stored_one(tensors, loaded):
    model, clip, vae = loaded
    for module, prefix in (
        (model.model.diffusion_model, "model.diffusion_model."),
        (vae.first_stage_model, "vae."),
    ):
        for key, tensor in module.state_dict().items():
            assert torch.equal(tensor.float(), tensors[prefix + key]), key
    table = clip.cond_stage_model.t5xxl.transformer.shared.weight
    stored = tensors["text_encoders.t5xxl.transformer.shared.weight"]
    assert torch.equal(table[T5_ROWS], stored)
    assert torch.allclose(table[5], stored.mean(0))


def test_a_prompt_is_as_long_as_the_file_says_and_has_a_pooled_text(loaded):
    _, clip, _ = loaded
    ((text, extra),) = clip.encode_from_tokens_scheduled(clip.tokenize("a cat"))
    assert text.shape == (1, 16, 24)
    assert extra["pooled_output"].shape == (1, 20)


def test_comfyuis_sampler_draws_with_it_and_reads_the_prompt(loaded):
    model, clip, vae = loaded
    noise = torch.randn(1, 16, 8, 12, generator=torch.Generator().manual_seed(1))

    def draw(prompt):
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "")
        )
        with torch.inference_mode():
            latent = comfy.sample.sample(
                model, noise, 2, 2.0, "euler", "simple", positive, negative,
                torch.zeros_like(noise), disable_pbar=True, seed=1,
            )  # fmt: skip
            return latent, vae.decode(latent)

    (latent, picture), (other, _) = draw("a cat"), draw("the")
    assert picture.shape == (1, 64, 96, 3)
    assert torch.isfinite(picture).all()
    assert not torch.equal(latent, other)


def test_norms_are_found_under_the_names_of_other_versions(tmp_path, tensors, loaded):
    other = {"scale": "weight", "weight": "scale"}
    renamed = {
        re.sub(r"(?<=query_norm\.|..key_norm\.)\w+$", lambda kind: other[kind[0]], key): tensor
        for key, tensor in tensors.items()
    }
    model, _, _ = load_miniature(write(tmp_path, renamed, RECORD))
    expected = loaded[0].model.diffusion_model.state_dict()
    assert renamed.keys() != tensors.keys()
    for key, tensor in model.model.diffusion_model.state_dict().items():
        assert torch.equal(tensor, expected[key]), key


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "krea"}, "family 'krea'; known: flux"),
        ({"model": {"hidden_size": 32}}, "transformer configuration lacks: num_heads"),
        ({"text_encoder": {"clip_l": CLIP_L}}, "text encoder configuration lacks: t5xxl"),
        ({"model": {**MODEL, "depth": 2}}, "transformer lacks weights: double_blocks.1"),
    ],
)
def test_a_record_that_cannot_be_followed_is_refused(tmp_path, tensors, change, message):
    with pytest.raises(FileFormatError, match=message):
        load_miniature(write(tmp_path, tensors, {**RECORD, **change}))


def test_a_file_without_t5_is_incomplete(tmp_path, tensors):
    kept = {k: v for k, v in tensors.items() if "t5xxl" not in k}
    with pytest.raises(FileFormatError, match=r"no weights under 'text_encoders\.t5xxl"):
        load_miniature(write(tmp_path, kept, RECORD))
