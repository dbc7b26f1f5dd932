"""Tensors of small LoRA files, written and read."""

import safetensors.torch
import torch

from mix_of_show.mos_core.formats import read_concept

BLOCK = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
TE = "lora_te_text_model_encoder_layers_0_mlp_fc1"


def pair(name=BLOCK, out=320, into=768, rank=4, alpha=4.0, seed=0):
    make = torch.Generator().manual_seed(seed)
    tensors = {
        f"{name}.lora_down.weight": torch.randn(rank, into, generator=make),
        f"{name}.lora_up.weight": torch.randn(out, rank, generator=make),
    }
    return tensors if alpha is None else {**tensors, f"{name}.alpha": torch.tensor(alpha)}


def write(tensors, tmp_path, metadata=None, name="knight"):
    path = tmp_path / f"{name}.safetensors"
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata)
    return path


def read(tensors, tmp_path, metadata=None, **options):
    return read_concept(write(tensors, tmp_path, metadata), **options)
