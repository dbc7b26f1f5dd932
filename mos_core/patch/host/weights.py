"""Deltas as ComfyUI weight patches: merged, offloaded and saved by ComfyUI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.lora
import comfy.utils
import torch

from ...adapters import BIAS, Adapter
from ...adapters.ends import DIFF
from ...deltas import Delta
from ...errors import ArchitectureError
from ...records import Concept, Site
from .based import OwnAdapter, reads_itself, tensors_of
from .fit import check_site, has_bias
from .names import Target


def merge_named(
    patcher: Any, concept: Concept, targets: Mapping[str, Target], strength: float
) -> None:
    """Adds the concept's deltas to a clone of ours, as ComfyUI's own Load LoRA does, bit for bit.

    targets: name in the file -> where it goes (bind.match_names). Strength 0 adds nothing. Raises
    ArchitectureError if a delta has another shape than its weight or is not taken.
    """
    for name, target in targets.items():
        check_site(patcher, target.site, concept.deltas[name], name, concept.name)
    if strength:
        hosts = {name: target.host for name, target in targets.items()}
        patches = patches_of(patcher, concept.deltas, hosts, concept.name)
        add_patches(patcher, patches, strength, concept.name)


def merge_sites(patcher: Any, deltas: Mapping[Site, Delta], owner: str) -> None:
    """Adds deltas that are bound already (strengths multiplied in) to a clone of ours."""
    for site, delta in deltas.items():
        check_site(patcher, site, delta, site.path, owner)
    named = {site.key + str(site.part): delta for site, delta in deltas.items()}
    hosts = {site.key + str(site.part): host_of(site) for site in deltas}
    add_patches(patcher, patches_of(patcher, named, hosts, owner), 1.0, owner)


def patches_of(
    patcher: Any, deltas: Mapping[str, Delta | Adapter], hosts: Mapping[str, object], owner: str
) -> dict[object, object]:
    """What ComfyUI's `add_patches` takes: its own adapters wherever it reads the kind.

    Raises ArchitectureError if ComfyUI reads nothing of a delta that it was handed.
    """
    tensors: dict[str, torch.Tensor] = {}
    patches: dict[object, object] = {}
    asked: list[object] = []  # hosts of what ComfyUI is to read
    for name, host in hosts.items():
        delta, key, part = deltas[name], *_parts_of(host)
        if isinstance(delta, Adapter) and not reads_itself(delta):
            patches[host] = OwnAdapter(set(), (delta,))
            delta = Adapter("bias", {e: t for e, t in delta.tensors.items() if e == BIAS})
        own = tensors_of(delta)
        if BIAS in own and not has_bias(patcher, Site(key)):
            del own[BIAS]  # bind.match_names has noted it
        elif BIAS in own and part is not None:  # ComfyUI looks for it by the whole of the slice
            patches[f"{key.removesuffix('.weight')}.bias", part] = ("diff", (own.pop(BIAS),))
        if DIFF in own and isinstance(delta, Delta):
            own[DIFF] = as_weight(patcher, key, own[DIFF])
        tensors |= {name + end: tensor for end, tensor in own.items()}
        asked += [host] if own else []
    loaded = comfy.lora.load_lora(tensors, dict(hosts), log_missing=False)
    read = [host for host in asked if host in loaded or _bias_of(host) in loaded]
    if len(read) < len(asked):
        raise ArchitectureError(
            f"only {len(read)} of {len(asked)} LoRA layers of '{owner}' could be applied: this "
            "ComfyUI does not read the others; update ComfyUI, or convert the file"
        )
    return {**patches, **loaded}


def _bias_of(host: Any) -> str:
    return f"{_parts_of(host)[0].removesuffix('.weight')}.bias"


def _parts_of(host: Any) -> tuple[str, tuple[int, int, int] | None]:
    """A value of ComfyUI's key map: its weight, and the slice of it."""
    return (host, None) if isinstance(host, str) else (host[0], host[1])


def add_patches(patcher: Any, patches: Mapping, strength: float, owner: str) -> None:
    """Raises ArchitectureError unless the patcher takes every patch."""
    applied = set(patcher.add_patches(dict(patches), strength)) if patches else set()
    if len(applied) != len(patches):
        raise ArchitectureError(
            f"only {len(applied)} of {len(patches)} LoRA layers of '{owner}' could be "
            "applied to this model; another node may have replaced its layers"
        )


def host_of(site: Site) -> str | tuple[str, tuple[int, int, int]]:
    """The site as ComfyUI's patches are keyed: a key, or (key, (axis, start, length))."""
    return site.key if site.part is None else (site.key, (0, *site.part))


def as_weight(patcher: Any, key: str, matrix: torch.Tensor) -> torch.Tensor:
    """(out, in) in the shape of a weight: (out, in, 1, 1) for a convolution."""
    module = comfy.utils.get_attr(patcher.model, key.removesuffix(".weight"))
    return matrix.reshape(matrix.shape[0], -1, *getattr(module, "kernel_size", ()))
