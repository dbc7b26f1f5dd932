"""The one seam of model families: what a family is, as tables. Nothing here touches a tensor.

A new family is a file in this folder and a line in FAMILIES.
"""

from collections.abc import Mapping

from ..errors import ArchitectureError
from .cosmos import ANIMA, COSMOS
from .family import AttentionLayer, Encoder, Family, Latent, Role
from .flux import CHROMA, FLUX, FLUX2
from .krea2 import KREA2
from .qwen_image import QWEN_IMAGE
from .stable_diffusion import OTHER, SD15, SD21, SDXL
from .z_image import LUMINA2, Z_IMAGE

# In the order in which a configuration and a file's names are tried.
FAMILIES: tuple[Family, ...] = (
    SDXL,
    SD21,
    SD15,
    FLUX,
    FLUX2,
    CHROMA,
    Z_IMAGE,
    LUMINA2,
    QWEN_IMAGE,
    KREA2,
    ANIMA,
    COSMOS,
    OTHER,
)

__all__ = ["FAMILIES", "AttentionLayer", "Encoder", "Family", "Latent", "Role"]


def family_of(unet_config: Mapping) -> tuple[Family, tuple[AttentionLayer, ...]]:
    """The family of a ComfyUI model and its attention layers in running order.

    unet_config: `model.model.model_config.unet_config`. Raises ArchitectureError for a model of no
    known family.
    """
    for family in FAMILIES:
        if family.matches(unet_config):
            return family, family.layers(unet_config)
    kind = unet_config.get("image_model") or unet_config.get("audio_model")
    what = f"this MODEL is '{kind}'" if kind else "this MODEL is not a UNet with cross-attention"
    titles = ", ".join(dict.fromkeys(family.title for family in FAMILIES))
    raise ArchitectureError(
        f"{what}, of no family that this pack knows. It knows {titles}; load a checkpoint of one "
        "of these"
    )


def family_named(name: str) -> Family | None:
    """The family of that short name; None if there is none."""
    return next((family for family in FAMILIES if family.name == name), None)
