"""Sampling with the stock nodes on tiny models, and what must be as before afterwards."""

import hashlib

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.samplers
import comfy.t2i_adapter.adapter
import torch

import nodes

from .tiny_models import CPU, HEADS, SD15_UNET, WIDTH

SIZE = (16, 16)  # latent cells; smaller ones leave one cell on the coarsest map


def encode(clip, prompt):
    (conditioning,) = nodes.CLIPTextEncode().encode(clip, prompt)
    return conditioning


def sample(model, positive, negative, steps=2, cfg=7.5, batch=1, size=SIZE, seed=0, **options):
    """The latent (batch, 4, h, w) that the stock KSampler returns."""
    latent = {"samples": torch.zeros(batch, 4, *size)}
    (result,) = nodes.common_ksampler(
        model, seed, steps, cfg, "euler", "normal", positive, negative, latent, **options
    )
    return result["samples"]


def draw(model, positive, size=SIZE, **options):
    """The denoised latent of one step without guidance: linear in the UNet's output."""
    return sample(model, positive, positive, steps=1, cfg=1.0, size=size, **options)


def predict_noise(model, latent, timestep, context, chunks=None):
    """The raw UNet output with all patches, weights and wrappers of the ModelPatcher.

    latent: (batch, 4, h, w); context: (batch, tokens, width) or wide. chunks: ComfyUI's
    cond_or_uncond, 0 for each conditional chunk of the batch, 1 for each other one.
    """
    comfy.model_management.load_models_gpu([model])
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    if chunks is not None:
        options["cond_or_uncond"] = list(chunks)
    t = torch.full((len(latent),), float(timestep))
    return model.model.diffusion_model(latent, t, context=context, transformer_options=options)


def count_unet_calls(model):
    """A list that gets the batch size of every UNet call of this ModelPatcher."""
    calls = []

    def note(apply_model, arguments):
        calls.append(len(arguments["input"]))
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    model.set_model_unet_function_wrapper(note)
    return calls


def fingerprint(patcher) -> str:
    """Of all weights, as the model runs when it is used with this very ModelPatcher."""
    comfy.model_management.load_models_gpu([patcher])
    digest = hashlib.sha256()
    for key, weight in sorted(patcher.model.state_dict().items()):
        digest.update(key.encode() + weight.float().numpy().tobytes())
    return digest.hexdigest()


def describe(patcher) -> dict:
    """Everything that a ModelPatcher carries beside the weights, with the identity of objects."""

    def freeze(value):
        if isinstance(value, dict):
            return {key: freeze(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [freeze(inner) for inner in value]
        return value if isinstance(value, (str, int, float, bool, type(None))) else id(value)

    names = ("patches", "object_patches", "model_options", "wrappers", "callbacks", "injections")
    return {name: freeze(getattr(patcher, name)) for name in names}


def fill_at_random(module, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) * 0.1
    return module


def tiny_controlnet():
    """ComfyUI's own ControlNet for the golden UNet, with random weights."""
    config = {k: v for k, v in SD15_UNET.items() if k != "out_channels"}
    model = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, num_heads=HEADS, num_head_channels=-1, device="cpu"
    )
    return comfy.controlnet.ControlNet(fill_at_random(model), load_device=CPU)


def tiny_t2i_adapter():
    """ComfyUI's own T2I-Adapter for the golden UNet, with random weights."""
    model = comfy.t2i_adapter.adapter.Adapter(
        channels=[WIDTH] * 4, nums_rb=2, cin=64 * 3, ksize=1, sk=True, use_conv=False, xl=False
    )
    return comfy.controlnet.T2IAdapter(
        fill_at_random(model), 3, compression_ratio=8, upscale_algorithm="nearest-exact", device=CPU
    )


def some_picture(size=SIZE):
    """An IMAGE (1, height, width, 3) for a latent of this size."""
    h, w = size[0] * 8, size[1] * 8
    return torch.rand(1, h, w, 3, generator=torch.Generator().manual_seed(5))
