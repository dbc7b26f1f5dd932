"""Miniature checkpoints of Flux.1's shape: what is loaded is what was stored, texts are padded to
the file's length, and ComfyUI's own sampler draws with it."""

import re

import comfy.sample
import comfy.supported_models
import pytest
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from support.flux_files import CLIP_L, MODEL, RECORD, T5_ROWS, flux_tensors, write_flux


@pytest.fixture(scope="module")
def tensors():
    """Everything that a file of this shape holds."""
    return flux_tensors()


def write(folder, tensors, record):
    path = folder / "flux.safetensors"
    write_flux(path, tensors, record)
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
