"""The one seam of model families: what a family is, as tables. Nothing here touches a tensor.

A new family is a file in this folder and a line in FAMILIES.
"""

from collections.abc import Mapping

from ..errors import ArchitectureError
from .family import AttentionLayer, Encoder, Family, Latent, Role
from .stable_diffusion import OTHER, SD15, SD21, SDXL

# In the order in which a configuration and a file's names are tried.
FAMILIES: tuple[Family, ...] = (SDXL, SD21, SD15, OTHER)

__all__ = ["FAMILIES", "AttentionLayer", "Encoder", "Family", "Latent", "Role"]


def family_of(unet_config: Mapping) -> tuple[Family, tuple[AttentionLayer, ...]]:
    """The family of a ComfyUI model and its attention layers in running order.

    unet_config: `model.model.model_config.unet_config`. Raises ArchitectureError for a model of no
    known family.
    """
    for family in FAMILIES:
        if family.matches(unet_config):
            return family, family.layers(unet_config)
    titles = ", ".join(dict.fromkeys(family.title for family in FAMILIES))
    raise ArchitectureError(
        "this MODEL is not a Stable Diffusion UNet with cross-attention blocks, nor of another "
        f"family that this pack knows ({titles}); load a checkpoint of one of these"
    )


def family_named(name: str) -> Family | None:
    """The family of that short name; None if there is none."""
    return next((family for family in FAMILIES if family.name == name), None)
