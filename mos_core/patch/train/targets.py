"""Which layers of a MODEL and CLIP training can change, by the names that a concept file has."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import comfy.utils
import torch

from ...errors import TrainError
from ...families import AttentionLayer, Family
from ...families.unet import UNetLayer
from ...records import TEXT_PART, UNET_PART, Site
from ...train.settings import ATTENTION, CONVOLUTIONS, LINEAR
from ...train.trainable import Target

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
SECOND = "text_encoder_2."  # the second text encoder's part of a file
BLOCKS = re.compile(r"\.(resnets|downsamplers|upsamplers)\.\d+\.(?!norm)")


def targets_of(
    model: Any, clip: Any, family: Family, attention: Sequence[AttentionLayer], layers: str
) -> dict[str, Target]:
    """Name in the file -> layer: of the text encoders that learn, then of the model, in the order
    in which they run. layers: of settings.LAYERS. Raises TrainError if the model has no
    convolutions and they are asked for."""
    unet = [layer for layer in attention if isinstance(layer, UNetLayer)]
    if layers == CONVOLUTIONS and not unet:
        raise TrainError(
            f"{family.title} has no residual blocks of convolutions; choose '{LINEAR}' layers"
        )
    found = dict(text_targets(clip.cond_stage_model, family, layers))
    own = unet_targets(model.model, unet, layers) if unet else model_targets(model, family, layers)
    found |= dict(own)
    if layers == CONVOLUTIONS:
        found |= dict(convolution_targets(model.model))
    return found


def text_targets(text: torch.nn.Module, family: Family, layers: str) -> Iterator:
    """(name, Target) of CLIP's text encoders; other kinds are not trained."""
    learning = [encoder for encoder in family.texts if encoder.learns_tokens]
    modules = [f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")]
    if layers != ATTENTION:
        modules += ["mlp.fc1", "mlp.fc2"]
    for prefix, encoder in zip((TEXT_PART, SECOND), learning, strict=False):
        for i in range(getattr(text, encoder.key).num_layers):
            for module in modules:
                name = f"text_model.encoder.layers.{i}.{module}"
                site = Site(f"{encoder.key}.transformer.{name}.weight")
                yield prefix + name, Target(site, shape_of(text, site), True)


def unet_targets(root: torch.nn.Module, attention: Sequence[UNetLayer], layers: str) -> Iterator:
    """(name, Target) of a UNet's transformer blocks, by diffusers' names."""
    inside = [f"{kind}.{part}" for kind in ("attn1", "attn2") for part in PROJECTIONS]
    if layers != ATTENTION:
        inside += FEED_FORWARD
    for layer in attention:
        names = [f"{layer.diffusers}.transformer_blocks.{layer.depth}.{part}" for part in inside]
        if layers != ATTENTION and layer.depth == 0:
            names += [f"{layer.diffusers}.proj_in", f"{layer.diffusers}.proj_out"]
        own = "diffusion_model." + layer.comfy
        for name in names:
            site = Site(f"{own}{name.removeprefix(layer.diffusers)}.weight")
            yield UNET_PART + name, Target(site, shape_of(root, site), False)


def convolution_targets(model: Any) -> Iterator:
    """(name, Target) of the convolutions and time layers of a UNet's residual blocks and of its
    changes of size, by diffusers' names: what LoCon adds to LoRA (LyCORIS, arXiv 2309.14859)."""
    pairs = comfy.utils.unet_to_diffusers(model.model_config.unet_config).items()
    names = {name: own for name, own in pairs if name.endswith(".weight")}
    modules = dict(model.named_modules())
    for name, own in names.items():
        site = Site("diffusion_model." + own)
        if BLOCKS.search(name) and hasattr(modules.get(site.path), "weight"):  # some are Identity
            yield (
                UNET_PART + name.removesuffix(".weight"),
                Target(site, shape_of(model, site), False),
            )


def model_targets(model: Any, family: Family, layers: str) -> Iterator:
    """(name, Target) of any other model's linear layers, by ComfyUI's own names."""
    parts = family.targets[layers]
    for path, module in model.model.named_modules():
        role = family.role(path) if hasattr(module, "in_features") else None
        if role is not None and role.part in parts:
            yield (
                path,
                Target(Site(f"{path}.weight"), (module.out_features, module.in_features), False),
            )


def shape_of(root: torch.nn.Module, site: Site) -> tuple[int, ...]:
    """(out, in) or (out, in, rows, columns), from the module's own record of its size."""
    module = comfy.utils.get_attr(root, site.path)
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels, *module.kernel_size
