"""Files for a tiny model of Flux.1's shape: a miniature checkpoint, and an ordinary LoRA for it."""

import json

import comfy.supported_models
import safetensors.torch
import torch

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
LORA_LAYERS = {  # of the transformer -> (out, in)
    "double_blocks_0_img_attn_qkv": (96, 32),
    "double_blocks_0_txt_attn_qkv": (96, 32),
    "double_blocks_0_img_mod_lin": (192, 32),
    "single_blocks_0_linear1": (224, 32),
    "single_blocks_1_linear2": (32, 160),
}


def filled(module: torch.nn.Module, prefix: str, seed: int) -> dict[str, torch.Tensor]:
    """Small random weights under the module's names."""
    generator = torch.Generator().manual_seed(seed)
    return {
        prefix + key: torch.randn(tensor.shape, generator=generator) * 0.1
        for key, tensor in module.state_dict().items()
    }


def flux_tensors() -> dict[str, torch.Tensor]:
    """Everything that a miniature checkpoint of this shape holds."""
    from comfy.sd1_clip import SDClipModel
    from comfy.taesd.taesd import TAESD
    from comfy.text_encoders.sd3_clip import T5XXLModel

    from mix_of_show.mos_core.patch.host.miniature_flux import T5_SHAPE, flux_config

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


def write_flux(path, tensors: dict[str, torch.Tensor], record: dict = RECORD) -> None:
    safetensors.torch.save_file(tensors, path, metadata={"mos_miniature": json.dumps(record)})


def write_flux_lora(path, seed: int = 0) -> None:
    """As kohya's trainer writes it."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, (out, into) in LORA_LAYERS.items():
        tensors[f"lora_unet_{name}.lora_down.weight"] = torch.randn(2, into, generator=generator)
        tensors[f"lora_unet_{name}.lora_up.weight"] = 0.1 * torch.randn(out, 2, generator=generator)
        tensors[f"lora_unet_{name}.alpha"] = torch.tensor(2.0)
    safetensors.torch.save_file(tensors, path)
