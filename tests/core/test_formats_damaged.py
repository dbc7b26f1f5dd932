"""Ring 1: concept files with something wrong inside, each with its message."""

import json

import pytest
import safetensors.torch
import torch

from support.concept_files import (
    Q_PROJ,
    TO_Q,
    assert_refused,
    make_factors,
    make_tables,
    save_params,
)
from support.golden import EMBEDDING, TEXT, UNET


def save_ours(path, tensors, **metadata):
    """A safetensors file with our metadata, as damaged as the arguments say."""
    known = {"format": "mos_edlora", "version": "1", "tokens": '["<x1>", "<x2>"]'}
    metadata = {k: v for k, v in {**known, **metadata}.items() if v is not None}
    safetensors.torch.save_file(tensors, path, metadata)
    return path


def our_tensors(**changes):
    tensors = {f"emb.{token}": table for token, table in make_tables().items()}
    return {**tensors, **{f"unet.{k}": v for k, v in make_factors().items()}, **changes}


@pytest.mark.parametrize("embeddings", [None, {}])
def test_an_edlora_without_its_embeddings_is_refused(embeddings, tmp_path):
    path = save_params(tmp_path / "x.pth", embeddings, make_factors(Q_PROJ), make_factors())
    assert_refused(path, "no layer-wise concept embeddings")
    tensors = {f"unet.{key}": tensor for key, tensor in make_factors().items()}
    path = save_ours(tmp_path / "x.safetensors", tensors, tokens="[]")
    assert_refused(path, "no layer-wise concept embeddings")


@pytest.mark.parametrize(
    ("tensors", "metadata", "pattern"),
    [
        ({"model.diffusion_model.out.2.bias": torch.ones(4)}, {}, "checkpoint loader"),
        ({"x": torch.ones(4)}, {"mos_miniature": "{}"}, "checkpoint loader"),
        ({"x.weight": torch.ones(2, 8)}, {}, "neither a concept nor a LoRA.*1 tensors, first 'x.w"),
        ({}, {}, "neither a concept nor a LoRA.*: 0 tensors"),
        ({"unet.x.diff": torch.ones(4)}, {"format": "mos_fused"}, "Load Fused Concepts"),
        ({f"{EMBEDDING}.<x>": torch.ones(16, 8)}, {}, "load the .pth"),
    ],
)
def test_another_kind_of_safetensors_file_is_told_what_it_is(tensors, metadata, pattern, tmp_path):
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors", metadata or None)
    assert_refused(tmp_path / "x.safetensors", pattern)


@pytest.mark.parametrize("version", ["0", "3", "1.5", "", "-1", "²", "9" * 5000])
def test_an_unknown_version_is_refused(version, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), version=version)
    assert_refused(path, "format version.*update the pack")


@pytest.mark.parametrize(
    "metadata",
    [
        {"tokens": None},
        {"tokens": "["},
        {"tokens": "5"},
        {"tokens": "[" * 100_000},
        {"training": "{"},
        {"training": "[1]"},
        {"training": "7"},
    ],
)
def test_damaged_metadata_is_refused(metadata, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), **metadata)
    assert_refused(path, "metadata is damaged")


@pytest.mark.parametrize("tokens", [["<x1>"], ["<x1>", "<x2>", "<x3>"], ["<x1>", "<x1>"], []])
def test_metadata_that_names_other_tokens_is_refused(tokens, tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(), tokens=json.dumps(tokens))
    assert_refused(path, "its metadata names the tokens")


def test_an_unknown_tensor_is_refused(tmp_path):
    path = save_ours(tmp_path / "x.safetensors", our_tensors(extra=torch.ones(1)))
    assert_refused(path, "unknown tensor 'extra'")


@pytest.mark.parametrize("shape", [(16,), (2, 16, 8), (0, 8), (16, 0), ()])
def test_an_embedding_of_a_wrong_shape_is_refused(shape, tmp_path):
    path = save_params(tmp_path / "x.pth", {"<x>": torch.ones(shape)})
    assert_refused(path, r"the embedding of <x> has shape.*layers = 16 \(sd15\), 70 \(sdxl\)")


@pytest.mark.parametrize("rows", [1, 15, 24])
def test_a_number_of_rows_that_fits_no_architecture_is_refused(rows, tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(rows=rows))
    assert_refused(path, f"table of {rows} rows fits no known architecture")


def test_embeddings_of_different_shapes_are_refused(tmp_path):
    tables = {**make_tables(), "<x3>": torch.ones(16, 9)}
    assert_refused(save_params(tmp_path / "x.pth", tables), "differ in shape")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", [EMBEDDING, TEXT, UNET])
def test_values_that_are_not_finite_are_refused(part, value, tmp_path):
    parts = {EMBEDDING: make_tables(), TEXT: make_factors(Q_PROJ), UNET: make_factors()}
    list(parts[part].values())[-1][-1, -1] = value
    assert_refused(save_params(tmp_path / "x.pth", *parts.values()), "not finite numbers")


def test_whole_numbers_are_refused(tmp_path):
    path = save_params(tmp_path / "x.pth", {"<x>": torch.ones(16, 8, dtype=torch.int32)})
    assert_refused(path, "stored as int32, expected floating-point")


@pytest.mark.parametrize("half", ["lora_down", "lora_up"])
@pytest.mark.parametrize("part", [TEXT, UNET])
def test_a_missing_half_is_refused(part, half, tmp_path):
    module = Q_PROJ if part == TEXT else TO_Q
    parts = {EMBEDDING: make_tables(), TEXT: make_factors(Q_PROJ), UNET: make_factors()}
    del parts[part][f"{module}.{half}.weight"]
    path = save_params(tmp_path / "x.pth", *parts.values())
    assert_refused(path, f"{half} of '{module}'.*missing")


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ((2, 8), (8, 3)),
        ((2, 8), (8,)),
        ((2, 8, 1), (8, 2, 1)),
        ((2, 8, 3, 3), (8, 2, 1, 1)),
        ((2, 8, 1, 1), (8, 2)),
        ((0, 8), (8, 0)),
        ((2, 0), (8, 2)),
    ],
)
def test_factors_of_wrong_shapes_are_refused(down, up, tmp_path):
    keys = (f"{TO_Q}.lora_down.weight", f"{TO_Q}.lora_up.weight")
    factors = dict(zip(keys, (torch.ones(down), torch.ones(up)), strict=True))
    path = save_params(tmp_path / "x.pth", make_tables(), {}, factors)
    assert_refused(path, f"'{TO_Q}'.*factors of shape")


def test_whole_merged_weights_are_refused(tmp_path):
    merged = {f"{TO_Q}.weight": torch.ones(8, 8)}
    path = save_params(tmp_path / "x.pth", make_tables(), {}, merged)
    assert_refused(path, "whole merged weights are not ED-LoRAs")


@pytest.mark.parametrize(
    "module", ["down_blocks.3.attentions.0.proj_in", "mid_block.resnets.0.conv1", "nonsense"]
)
def test_a_module_that_the_architecture_does_not_have_is_refused(module, tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(), {}, make_factors(module))
    assert_refused(path, f"1 module.* that sd15 does not have, first '{module}'.*another arch")


def test_an_unknown_text_module_is_refused(tmp_path):
    path = save_params(tmp_path / "x.pth", make_tables(), make_factors("visual.proj"))
    assert_refused(path, "first 'visual.proj'")


@pytest.mark.parametrize("token", ["potter", "<>", "<a b>", "<a:1>", "<a(>", "<a\\>", "a>", ""])
def test_a_name_that_cannot_be_a_token_is_refused(token, tmp_path):
    path = save_params(tmp_path / "x.pth", {token: torch.ones(16, 8)})
    assert_refused(path, "cannot be a concept token")


def test_a_big_file_of_another_kind_is_refused_without_reading_its_tensors(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    tensors = {"model.diffusion_model.big": torch.ones(4)}
    safetensors.torch.save_file(tensors, path)

    def fail(tensor):
        raise AssertionError("a tensor was read")

    monkeypatch.setattr("mix_of_show.mos_core.formats.tensor_file.own", fail)
    assert_refused(path, "is a checkpoint")
