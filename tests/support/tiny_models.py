"""Models with SD1.5's topology, 32 wide, with the weights of the golden data: fp32, on the CPU.

They are ComfyUI's own classes, filled from the reference's diffusers files.
"""

import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.taesd.taesd
import comfy.utils
import torch

from .golden import read_meta, read_tensors

WIDTH, LAYERS, HEADS = 32, 16, 4
CPU = torch.device("cpu")
SD15_UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": WIDTH,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 1, 1, 1],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": WIDTH,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "use_spatial_transformer": True,
    "legacy": False,
}
TEXT_ENCODER = {
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


class TinySD15(comfy.supported_models.SD15):
    unet_extra_config = {"num_heads": HEADS, "num_head_channels": -1}  # noqa: RUF012


class TinyTarget:
    """What comfy.sd.CLIP is built from."""

    clip = comfy.sd1_clip.SD1ClipModel
    tokenizer = comfy.sd1_clip.SD1Tokenizer
    params: dict = {}  # noqa: RUF012


def patcher_of(model) -> comfy.model_patcher.ModelPatcher:
    return comfy.model_patcher.ModelPatcher(model, load_device=CPU, offload_device=CPU)


def empty_unet(dtype=torch.float32, manual_cast=None, **changes):
    """A ModelPatcher whose weights are whatever the memory held."""
    config = TinySD15({**SD15_UNET, **changes})
    config.set_inference_dtype(dtype, manual_cast)
    return patcher_of(config.get_model({}, "", device="cpu"))


def golden_unet(folder: str = "", dtype=torch.float32, manual_cast=None):
    """The reference's UNet as a ModelPatcher. folder: 'timestep/' for that set."""
    mult = [1, 1, 1, 2] if folder else [1, 1, 1, 1]
    patcher = empty_unet(dtype, manual_cast, channel_mult=mult)
    names = comfy.utils.unet_to_diffusers({**SD15_UNET, "channel_mult": mult})
    weights = {names[k]: w.to(dtype) for k, w in read_tensors(f"{folder}unet").items()}
    patcher.model.diffusion_model.load_state_dict(weights, strict=True)
    return patcher


def golden_clip(dtype=torch.float32):
    """The reference's text encoder as ComfyUI's CLIP."""
    clip = empty_clip(dtype)
    tensors = dict(read_tensors("text_encoder"))
    table = torch.zeros(read_meta()["text_encoder_config"]["vocab_size"], WIDTH)
    table[tensors.pop("token_embedding.ids").long()] = tensors.pop("token_embedding.rows").float()
    tensors["text_model.embeddings.token_embedding.weight"] = table
    weights = {f"clip_l.transformer.{k}": w.to(dtype) for k, w in tensors.items()}
    missing = clip.load_sd(weights, full_model=True).missing_keys
    assert set(missing) <= {"clip_l.logit_scale", "clip_l.transformer.text_projection.weight"}
    return clip


def empty_clip(dtype=torch.float32, **changes):
    config = {**TEXT_ENCODER, **changes}
    options = {"dtype": dtype, "clip_l_model_config": config, "load_device": CPU}
    clip = comfy.sd.CLIP(TinyTarget, model_options={**options, "offload_device": CPU})
    torch.nn.init.eye_(clip.cond_stage_model.clip_l.transformer.text_projection.weight)
    clip.tokenizer.clip_l.embedding_size = config["hidden_size"]
    return clip


def random_taesd(channels: int = 4):
    """A VAE of TAESD's shape with small random weights; always the same ones."""
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD(latent_channels=channels).state_dict())
    generator = torch.Generator().manual_seed(0)
    for weight in vae.first_stage_model.parameters():
        weight.data.copy_(torch.randn(weight.shape, generator=generator) * 0.05)
    return vae
