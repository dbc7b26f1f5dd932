"""A concept's LoRA factors as ComfyUI weight patches (merged, offloaded and saved by ComfyUI)."""

from collections.abc import Callable, Mapping

import comfy.lora
import comfy.utils

from ..errors import ArchitectureError
from ..formats.parts import flatten_factors
from ..records import LowRank


def add_deltas(
    patcher,
    factors: Mapping[str, LowRank],
    comfy_key: Callable[[str], str | None],
    strength: float,
    concept_name: str,
) -> None:
    """Adds `strength * up @ down` to the weights of `patcher` (a ModelPatcher clone of ours).

    comfy_key: diffusers module name -> key in the patcher's state dict. Strength 0 adds nothing,
    so that the model stays the base model bit for bit. Raises ArchitectureError if a module is
    missing or has another shape.
    """
    keys = {module: comfy_key(module) for module in factors}
    for module, pair in factors.items():
        check_fit(patcher, keys[module], pair, module, concept_name)
    if strength == 0 or not factors:
        return
    patches = comfy.lora.load_lora(flatten_factors(factors), keys, log_missing=False)
    applied = patcher.add_patches(patches, strength)
    if len(applied) != len(factors):
        raise ArchitectureError(
            f"only {len(applied)} of {len(factors)} LoRA layers of '{concept_name}' could be "
            "applied to this model; another node may have replaced its layers"
        )


def check_fit(patcher, key: str | None, pair: LowRank, module: str, concept_name: str) -> None:
    """Raises ArchitectureError unless the pair fits the module that it belongs to."""
    try:
        target = comfy.utils.get_attr(patcher.model, (key or "").removesuffix(".weight"))
    except AttributeError:
        raise ArchitectureError(
            f"the concept '{concept_name}' changes '{module}', which this model does not have; "
            "it was made for another base model"
        ) from None
    # The module's own record of its size: a quantised weight may be stored in another shape.
    size = [getattr(target, a, None) for a in ("out_features", "in_features")]
    if None in size:
        size = [getattr(target, a, None) for a in ("out_channels", "in_channels")]
    if None not in size and tuple(size) != pair.shape:
        raise ArchitectureError(
            f"the concept '{concept_name}' was made for another base model: '{module}' is "
            f"{size[0]} x {size[1]} here, the concept's LoRA is for {pair.shape[0]} x "
            f"{pair.shape[1]}"
        )
