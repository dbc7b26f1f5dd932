"""Model files for the test server: the golden models as a miniature checkpoint, the concepts, and
concepts whose names are HTML.
"""

import json
import os
import shutil
from pathlib import Path

import safetensors.torch
from PIL import Image

from . import with_comfyui  # noqa: F401 (before what imports ComfyUI)
from .flux_files import flux_tensors, write_flux, write_flux_lora
from .golden import CONCEPTS, GOLDEN, read_tensors

TOKEN_TABLE = {  # only the rows in use are stored: golden name -> the miniature file's
    "token_embedding.rows": "text_model.embeddings.token_embedding.weight",
    "token_embedding.ids": "text_model.embeddings.token_embedding.rows",
}
CHECKPOINT = "golden_miniature.safetensors"
FLUX_CHECKPOINT, FLUX_LORA = "tiny_flux.safetensors", "tiny_flux_lora.safetensors"
MARKUP = "<img src=x onerror=mosRan++>"  # as a file's name
MARKUP_TOKEN = "<img/src=x/onerror=mosRan++>"  # without spaces, as a concept token must be
MARKUP_FILE = "markup.safetensors"


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
    write_flux(models / "checkpoints" / FLUX_CHECKPOINT, flux_tensors())
    write_flux_lora(models / "loras" / FLUX_LORA)
    write_markup(models)


def write_markup(models: Path) -> None:
    """Concepts that a stranger could have made to run a script in the editor."""
    from mix_of_show.mos_core.formats import read_concept
    from mix_of_show.mos_core.formats.safetensors_edlora import write_safetensors
    from mix_of_show.mos_core.records import Concept

    concept = read_concept(GOLDEN / "edlora_a.pth")
    tables = dict(zip([MARKUP_TOKEN, "<plain>"], concept.embeddings.values(), strict=True))
    concept = Concept.edlora(
        concept.name, tables, concept.text, concept.unet, "sd15", {"captions": MARKUP}
    )
    write_safetensors(concept, models / "loras" / MARKUP_FILE)
    if os.name != "nt":  # no such names there
        write_safetensors(concept, models / "loras" / f"{MARKUP}.safetensors")
        folder = models.parent / "input" / MARKUP
        folder.mkdir(parents=True)
        Image.new("RGB", (64, 64), "red").save(folder / "1.png")


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
