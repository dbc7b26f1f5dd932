"""What a method needs of the models, asked once and before any work."""

from typing import Any

import torch

from ...errors import ArchitectureError
from ...families import Family

ENCODERS = ("clip_l", "clip_g", "clip_h", "t5xxl")  # names in ComfyUI's cond_stage_model


def check_latents(model: Any, purpose: str) -> None:
    """Raises ArchitectureError for a MODEL that takes more than latents (inpainting, editing).

    purpose: what it is wanted for, as in "training".
    """
    config = model.model.model_config.unet_config
    channels = model.model.latent_format.latent_channels
    taken = config.get("in_channels", channels)
    more = "transformer_depth" in config and taken != channels
    if more or getattr(model.model, "concat_keys", ()):
        raise ArchitectureError(
            f"this MODEL takes {taken} channels, a latent has {channels}: it is made for "
            f"inpainting or for editing pictures, which {purpose} cannot use; connect the ordinary "
            "model of the same kind"
        )


def check_vae(model: Any, vae: Any) -> None:
    """Raises ArchitectureError for a VAE whose latents the MODEL does not take."""
    channels = model.model.latent_format.latent_channels
    made = getattr(vae, "latent_channels", channels)
    if made != channels:
        raise ArchitectureError(
            f"this VAE makes latents of {made} channels, this MODEL takes {channels}; connect the "
            "VAE of the MODEL's own checkpoint"
        )


def check_encoders(clip: Any, family: Family, purpose: str) -> None:
    """Raises ArchitectureError for a CLIP that is not the family's."""
    found = [
        name
        for name in ENCODERS
        if isinstance(getattr(clip.cond_stage_model, name, None), torch.nn.Module)
    ]
    wanted = [encoder.key for encoder in family.texts]
    if sorted(found) != sorted(wanted):
        raise ArchitectureError(
            f"this CLIP has the text encoders {', '.join(found) or 'of another kind'}; {purpose} "
            f"on {family.title} needs {', '.join(wanted)}: connect the CLIP of the MODEL's own "
            "checkpoint"
        )
