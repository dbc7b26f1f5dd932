"""A miniature checkpoint of SDXL's shape, tiny, with random weights."""

import json

import safetensors.torch
import torch

from .sdxl_models import fill

MODEL = {"model_channels": 32, "channel_mult": [1, 1, 1], "num_heads": 2}
CLIP_L = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
CLIP_L |= {"num_hidden_layers": 3}
CLIP_G = {**CLIP_L, "hidden_size": 24}
RECORD = {
    "version": 2,
    "family": "sdxl",
    "model": MODEL,
    "text_encoder": {"clip_l": CLIP_L, "clip_g": CLIP_G},
    "vae": "taesd",
}
ROWS = [0, 320, 2368, 49406, 49407]  # token ids that have a row


def sdxl_tensors() -> dict[str, torch.Tensor]:
    """Everything that the file holds."""
    import comfy.supported_models
    from comfy.sdxl_clip import SDXLClipModel
    from comfy.taesd.taesd import TAESD

    from mix_of_show.mos_core.patch.host.miniature_sdxl import sdxl_config

    config = comfy.supported_models.SDXL(sdxl_config(MODEL, RECORD["text_encoder"]))
    config.unet_config = {**config.unet_config, "num_heads": 2, "num_head_channels": -1}
    config.set_inference_dtype(torch.float32, None)
    unet = config.get_model({}, "", device="cpu").diffusion_model
    options = {"clip_l_model_config": CLIP_L, "clip_g_model_config": CLIP_G}
    texts = SDXLClipModel(dtype=torch.float32, model_options=options)
    vae = TAESD(latent_channels=4)
    out = {}
    for part, prefix in (
        (unet, "model.diffusion_model."),
        (texts, "text_encoders."),
        (vae, "first_stage_model."),
    ):
        with torch.no_grad():
            fill(part)
        out |= {prefix + k: v for k, v in part.state_dict().items() if "logit_scale" not in k}
    for name in ("clip_l", "clip_g"):
        table = f"text_encoders.{name}.transformer.text_model.embeddings.token_embedding."
        out[table + "weight"] = out[table + "weight"][: len(ROWS)].clone()
        out[table + "rows"] = torch.tensor(ROWS)
    return out


def write_sdxl(path, tensors: dict[str, torch.Tensor], record: dict = RECORD) -> None:
    safetensors.torch.save_file(tensors, path, metadata={"mos_miniature": json.dumps(record)})
