"""Model files for the test server: the golden models as a miniature checkpoint, the concepts."""

import json
import shutil
from pathlib import Path

import safetensors.torch

from .golden import CONCEPTS, GOLDEN, read_tensors

TOKEN_TABLE = {  # only the rows in use are stored: golden name -> the miniature file's
    "token_embedding.rows": "text_model.embeddings.token_embedding.weight",
    "token_embedding.ids": "text_model.embeddings.token_embedding.rows",
}
CHECKPOINT = "golden_miniature.safetensors"


def concept_file(name: str) -> str:
    """The file name of a golden concept, "a" for example, in the test server's loras folder."""
    return f"golden_{name}.pth"


def place_models(models: Path) -> None:
    """Write the checkpoint and the concepts, as the papers' code wrote them, below `models`."""
    (models / "checkpoints").mkdir(parents=True, exist_ok=True)
    (models / "loras").mkdir(exist_ok=True)
    write_checkpoint(models / "checkpoints" / CHECKPOINT)
    for name in CONCEPTS:
        shutil.copy2(GOLDEN / f"edlora_{name}.pth", models / "loras" / concept_file(name))


def write_checkpoint(path: Path) -> None:
    """The golden UNet and text encoder with an untrained image decoder, as one miniature file."""
    import comfy.taesd.taesd
    import comfy.utils
    import torch

    from .tiny_models import HEADS, SD15_UNET, TEXT_ENCODER, WIDTH

    names = comfy.utils.unet_to_diffusers(SD15_UNET)
    tensors = {f"model.diffusion_model.{names[k]}": w for k, w in read_tensors("unet").items()}
    for key, tensor in read_tensors("text_encoder").items():
        tensors[f"cond_stage_model.transformer.{TOKEN_TABLE.get(key, key)}"] = tensor
    vae = comfy.taesd.taesd.TAESD().state_dict()
    seeded = torch.Generator().manual_seed(0)
    for key, tensor in vae.items():
        tensors[f"first_stage_model.{key}"] = (
            0.05 * torch.randn(tensor.shape, generator=seeded) if tensor.dim() else tensor.clone()
        )
    config = {
        "version": 1,
        "unet": {
            "model_channels": WIDTH,
            "channel_mult": [1, 1, 1, 1],
            "context_dim": WIDTH,
            "num_heads": HEADS,
        },
        "text_encoder": TEXT_ENCODER,
        "vae": "taesd",
    }
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    safetensors.torch.save_file(tensors, path, {"mos_miniature": json.dumps(config)})
