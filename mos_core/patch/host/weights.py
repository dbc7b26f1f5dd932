"""Deltas as ComfyUI weight patches: merged, offloaded and saved by ComfyUI."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import comfy.lora
import comfy.utils
import torch

from ...deltas import Delta, LowRank
from ...errors import ArchitectureError
from ...formats.parts import DOWN, UP
from ...records import Concept, Site
from .names import Target


def merge_named(patcher, concept: Concept, targets: Mapping[str, Target], strength: float) -> None:
    """Adds the concept's deltas to a clone of ours, as ComfyUI's own Load LoRA does, bit for bit.

    targets: name in the file -> where it goes (bind.match_names). Strength 0 adds nothing. Raises
    ArchitectureError if a delta has another shape than its weight or is not taken.
    """
    for name, target in targets.items():
        check_site(patcher, target.site, concept.deltas[name].shape, name, concept.name)
    if strength:
        flat = {name: tensors_of(concept.deltas[name]) for name in targets}
        _add(patcher, flat, {n: t.host for n, t in targets.items()}, strength, concept.name)


def merge_sites(patcher, deltas: Mapping[Site, Delta], owner: str) -> None:
    """Adds deltas that are bound already (strengths multiplied in) to a clone of ours."""
    for site, delta in deltas.items():
        check_site(patcher, site, delta.shape, site.path, owner)
    flat = {site.key + str(site.part): tensors_of(delta) for site, delta in deltas.items()}
    hosts = {site.key + str(site.part): host_of(site) for site in deltas}
    for site, delta in deltas.items():
        if not isinstance(delta, LowRank):
            flat[site.key + str(site.part)] = {".diff": as_weight(patcher, site, delta.matrix())}
    _add(patcher, flat, hosts, 1.0, owner)


def _add(patcher, flat: Mapping[str, Mapping[str, torch.Tensor]], hosts, strength, owner) -> None:
    if not flat:
        return
    tensors = {name + end: tensor for name, part in flat.items() for end, tensor in part.items()}
    patches = comfy.lora.load_lora(tensors, hosts, log_missing=False)
    applied = set(patcher.add_patches(patches, strength))
    if len(applied) != len(flat):
        raise ArchitectureError(
            f"only {len(applied)} of {len(flat)} LoRA layers of '{owner}' could be "
            "applied to this model; another node may have replaced its layers"
        )


def tensors_of(delta: Delta) -> dict[str, torch.Tensor]:
    """What ComfyUI's `load_lora` reads of a module, by the end of its name."""
    if isinstance(delta, LowRank):
        return {DOWN: delta.down, UP: delta.up}
    return {".diff": delta.matrix()}


def host_of(site: Site):
    """The site as ComfyUI's patches are keyed: a key, or (key, (axis, start, length))."""
    return site.key if site.part is None else (site.key, (0, *site.part))


def as_weight(patcher, site: Site, matrix: torch.Tensor) -> torch.Tensor:
    """(out, in) in the shape of the site's weight: (out, in, 1, 1) for a convolution."""
    module = comfy.utils.get_attr(patcher.model, site.path)
    kernel = getattr(module, "kernel_size", ())
    return matrix.reshape(*matrix.shape[:1], -1, *kernel)


def check_site(patcher, site: Site, shape: tuple[int, ...], name: str, owner: str) -> None:
    """Raises ArchitectureError unless a delta (out, in) fits the site."""
    out, into = size_of(patcher, site.key, name, owner)
    found = (out, into) if site.part is None else (site.part[1], into)
    if out is not None and found != tuple(shape):
        raise ArchitectureError(
            f"'{owner}' was made for another base model: '{name}' is {found[0]} x {found[1]} "
            f"here, {shape[0]} x {shape[1]} in '{owner}'"
        )


def size_of(patcher, key: str | None, name: str, owner: str) -> tuple[int | None, int | None]:
    """(out, in) of a weight's module, by its own record: a quantised weight may be stored in
    another shape. (None, None) where the module keeps none."""
    try:
        module = comfy.utils.get_attr(patcher.model, (key or "").removesuffix(".weight"))
    except AttributeError:
        raise ArchitectureError(
            f"'{owner}' changes '{name}', which this model does not have; it "
            "was made for another base model"
        ) from None
    for out, into in (("out_features", "in_features"), ("out_channels", "in_channels")):
        if hasattr(module, out):
            return getattr(module, out), getattr(module, into)
    return None, None


def check_fit(patcher, key: str | None, shape: tuple[int, ...], module: str, owner: str) -> None:
    """As check_site, by the weight's key."""
    size_of(patcher, key, module, owner)
    check_site(patcher, Site(key or ""), shape, module, owner)


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
    if strength and factors:
        flat = {module: tensors_of(pair) for module, pair in factors.items()}
        _add(patcher, flat, keys, strength, concept_name)


def add_full_deltas(
    patcher, deltas: Mapping[str, torch.Tensor], comfy_key: Callable[[str], str | None], owner: str
) -> None:
    """Adds whole-weight deltas, (out, in) or (out, in, 1, 1), as add_deltas does factors."""
    keys = {module: comfy_key(module) for module in deltas}
    patches = {}
    for module, delta in deltas.items():
        check_fit(patcher, keys[module], tuple(delta.shape[:2]), module, owner)
        patches[keys[module]] = ("diff", (as_weight(patcher, Site(keys[module] or ""), delta),))
    if patches and len(patcher.add_patches(patches)) != len(patches):
        raise ArchitectureError(f"some layers that {owner} changes are missing in this model")
