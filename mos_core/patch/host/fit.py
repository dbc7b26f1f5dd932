"""Whether a delta fits the weight that its name leads to, before anything is used.

ComfyUI takes factors of any shape, and at merging drops them with a line in the log, or reshapes
what happens to have as many elements.
"""

from __future__ import annotations

from math import prod
from typing import Any

import comfy.utils
import torch

from ...adapters import DORA, MAGNITUDE, Adapter
from ...adapters.based import block_size
from ...adapters.ends import OFT_V2, RESHAPE
from ...deltas import Delta
from ...errors import ArchitectureError
from ...records import Site

Size = tuple[int | None, int | None]


def check_site(patcher: Any, site: Site, delta: Delta | Adapter, name: str, owner: str) -> None:
    """Raises ArchitectureError unless `delta`, called `name` in the file of `owner`, fits."""
    out, into = size_of(patcher, site.key, name, owner)
    if site.part is not None:
        out = site.part[1]
    found = delta.shape
    if isinstance(delta, Adapter):
        if delta.get(RESHAPE) is not None:
            return  # it changes the layer's size, and says so
        _check_scale(delta, out, into, name, owner)
    if any(
        a is not None and b is not None and a != b for a, b in zip((out, into), found, strict=True)
    ):
        raise ArchitectureError(
            f"'{owner}' was made for another base model: '{name}' is {_words(out, into)} here, "
            f"{_words(*found)} in '{owner}'"
        )


def _words(out: int | None, into: int | None) -> str:
    return " x ".join(str(n) for n in (out, into) if n is not None)


def _check_scale(
    adapter: Adapter, out: int | None, into: int | None, name: str, owner: str
) -> None:
    rotation = adapter.get(OFT_V2)
    if rotation is not None and into is not None:
        blocks, size = len(rotation), block_size(rotation.shape[1])
        if into % size or blocks not in (1, into // size):
            raise ArchitectureError(
                f"'{owner}' was made for another base model: it rotates {blocks} x {size} "
                f"inputs of '{name}', which has {into} here"
            )
    for end in (DORA, MAGNITUDE):
        scale = adapter.get(end)
        if scale is None or out is None or into is None:
            continue
        per_output = scale.numel() == out and (
            scale.ndim == 1 or out in (scale.shape[0], scale.shape[1])
        )
        per_input = (
            end == DORA and scale.ndim > 1 and scale.shape[0] == 1 and into % scale.numel() == 0
        )
        if not (per_output or per_input):
            raise ArchitectureError(
                f"'{owner}': the {end[1:]} of '{name}' has shape {tuple(scale.shape)}; for this "
                f"layer of {out} outputs and {into} inputs it would be ({out}, 1) or (1, {into})"
            )


def size_of(patcher: Any, key: str | None, name: str, owner: str) -> Size:
    """(out, in * kernel) of a weight's module, by its own record: a quantised weight may be stored
    in another shape. None for what it does not tell (a norm, a parameter)."""
    try:
        module = comfy.utils.get_attr(patcher.model, (key or "").removesuffix(".weight"))
    except AttributeError:
        raise ArchitectureError(
            f"'{owner}' changes '{name}', which this model does not have; it "
            "was made for another base model"
        ) from None
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    if hasattr(module, "out_channels"):
        return module.out_channels, module.in_channels // module.groups * prod(module.kernel_size)
    weight = module if isinstance(module, torch.Tensor) else getattr(module, "weight", None)
    return (None if weight is None or weight.ndim == 0 else weight.shape[0]), None


def has_bias(patcher: Any, site: Site) -> bool:
    """Whether the layer adds a bias that a LoRA can change."""
    return getattr(comfy.utils.get_attr(patcher.model, site.path), "bias", None) is not None


def kernel_of(patcher: Any, site: Site) -> tuple[int, ...]:
    """Of a convolution larger than one cell; () for every other module."""
    kernel = tuple(getattr(comfy.utils.get_attr(patcher.model, site.path), "kernel_size", ()))
    return kernel if prod(kernel) > 1 else ()
