"""Small concepts, and files of them."""

import pytest
import torch

from mix_of_show.mos_core.errors import FileFormatError
from mix_of_show.mos_core.formats import (
    read_concept,
    write_reference,
    write_safetensors,
)
from mix_of_show.mos_core.formats.parts import build_concept
from support.golden import EMBEDDING, TEXT, UNET

TO_Q = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
Q_PROJ = "text_model.encoder.layers.0.self_attn.q_proj"
WRITERS = {".safetensors": write_safetensors, ".pth": write_reference}


def make_tables(rows=16, width=8, tokens=("<x1>", "<x2>")):
    generator = torch.Generator().manual_seed(0)
    return {token: torch.randn(rows, width, generator=generator) for token in tokens}


def make_factors(module=TO_Q, out=8, into=8, rank=2, ones=()):
    return {
        f"{module}.lora_down.weight": torch.randn(rank, into, *ones),
        f"{module}.lora_up.weight": torch.randn(out, rank, *ones),
    }


def make_concept(**changes):
    parts = {"embeddings": make_tables(), "text": make_factors(Q_PROJ), "unet": make_factors()}
    return build_concept("x", **{**parts, **changes})


def assert_refused(path, pattern):
    with pytest.raises(FileFormatError, match=pattern) as caught:
        read_concept(path)
    assert path.name in str(caught.value) or path.stem in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def save_params(path, embeddings=None, text=None, unet=None):
    params = {EMBEDDING: embeddings, TEXT: text, UNET: unet}
    torch.save({"params": {k: v for k, v in params.items() if v is not None}}, path)
    return path
