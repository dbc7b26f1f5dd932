"""Deltas as ComfyUI weight patches: merged, offloaded and saved by ComfyUI."""

from collections.abc import Callable, Mapping

import comfy.lora
import comfy.utils
import torch

from ...errors import ArchitectureError
from ...formats.parts import flatten_factors
from ...records import LowRank


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
        check_fit(patcher, keys[module], pair.shape, module, concept_name)
    if strength == 0 or not factors:
        return
    patches = comfy.lora.load_lora(flatten_factors(factors), keys, log_missing=False)
    applied = patcher.add_patches(patches, strength)
    if len(applied) != len(factors):
        raise ArchitectureError(
            f"only {len(applied)} of {len(factors)} LoRA layers of '{concept_name}' could be "
            "applied to this model; another node may have replaced its layers"
        )


def add_full_deltas(
    patcher, deltas: Mapping[str, torch.Tensor], comfy_key: Callable[[str], str | None], owner: str
) -> None:
    """Adds whole-weight deltas, (out, in) or (out, in, 1, 1), as add_deltas does factors."""
    keys = {module: comfy_key(module) for module in deltas}
    patches = {}
    for module, delta in deltas.items():
        check_fit(patcher, keys[module], tuple(delta.shape[:2]), module, owner)
        weight = comfy.utils.get_attr(patcher.model, (keys[module] or "").removesuffix(".weight"))
        ones = (1, 1) if hasattr(weight, "kernel_size") else ()
        patches[keys[module]] = ("diff", (delta.reshape(*delta.shape[:2], *ones),))
    if patches and len(patcher.add_patches(patches)) != len(patches):
        raise ArchitectureError(f"some layers that {owner} changes are missing in this model")


def check_fit(patcher, key: str | None, shape: tuple[int, ...], module: str, owner: str) -> None:
    """Raises ArchitectureError unless a delta (out, in) fits the module that it belongs to."""
    try:
        target = comfy.utils.get_attr(patcher.model, (key or "").removesuffix(".weight"))
    except AttributeError:
        raise ArchitectureError(
            f"'{owner}' changes '{module}', which this model does not have; it "
            "was made for another base model"
        ) from None
    # The module's own record of its size: a quantised weight may be stored in another shape.
    size = [getattr(target, a, None) for a in ("out_features", "in_features")]
    if None in size:
        size = [getattr(target, a, None) for a in ("out_channels", "in_channels")]
    if None not in size and tuple(size) != shape:
        raise ArchitectureError(
            f"'{owner}' was made for another base model: '{module}' is {size[0]} x {size[1]} "
            f"here, {shape[0]} x {shape[1]} in '{owner}'"
        )
