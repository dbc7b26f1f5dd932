"""Adapters that depend on the base weight: merged by ComfyUI, bound with the model at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import comfy.lora
import comfy.utils
import torch
from comfy.weight_adapter import WeightAdapterBase

from ...adapters import DORA, DOWN, MAGNITUDE, UP, Adapter, plain_delta
from ...adapters.based import based_delta, knows
from ...adapters.ends import BIAS, DIFF, OFT_V2, RESHAPE
from ...deltas import Convolution, Delta, LowRank, Whole, WithBias
from ...records import Site
from .fit import has_bias, kernel_of, size_of
from .names import Target

NOT_IN_REGIONS = "it acts with Apply Concepts, but not inside a region: "


class OwnAdapter(WeightAdapterBase):
    """What ComfyUI does not read, as one of its weight adapters. weights: (our Adapter,)."""

    name = "mix_of_show"

    def __init__(self, loaded_keys: Any, weights: Any):
        self.loaded_keys = loaded_keys
        self.weights = weights

    def calculate_weight(
        self,
        weight: torch.Tensor,
        key: str,
        strength: float,
        strength_model: float,
        offset: Any,
        function: Any,
        intermediate_dtype: Any = torch.float32,
        original_weight: Any = None,
    ) -> torch.Tensor:
        """`weight + strength * delta`, in place like ComfyUI's own."""
        delta = based_delta(self.weights[0], weight.flatten(1)).matrix().to(weight.device)
        weight += function((strength * delta.reshape(weight.shape)).type(weight.dtype))
        return weight


def reads_itself(adapter: Adapter) -> bool:
    """Whether ComfyUI has an adapter of its own for it."""
    return adapter.get(MAGNITUDE) is None and adapter.get(OFT_V2) is None


def tensors_of(delta: Delta | Adapter) -> dict[str, torch.Tensor]:
    """What ComfyUI's `load_lora` reads of a module, by the end of its name."""
    if isinstance(delta, Adapter):
        own = dict(delta.tensors)
        if DORA in own and own[DORA].ndim == 1:  # (out,), which ComfyUI would take for columns
            own[DORA] = own[DORA][:, None]
        return own
    if isinstance(delta, LowRank):
        return {DOWN: delta.down, UP: delta.up}
    return {DIFF: delta.matrix()}


def bound_delta(
    patcher: Any, target: Target, delta: Delta | Adapter, strength: float
) -> Delta | str:
    """`strength * delta` as it acts on rows, or why it cannot: words for a report."""
    site = target.site
    if isinstance(delta, Delta):
        return _turned(delta, target).scaled(strength)
    if delta.algorithm == "norm" or (delta.algorithm in ("full", "set") and delta.shape[1] is None):
        return f"{NOT_IN_REGIONS}it changes a norm or another parameter"
    if not site.key.endswith(".weight") and delta.algorithm != "bias":
        return f"{NOT_IN_REGIONS}it changes a parameter that is no weight of a layer"
    if delta.get(RESHAPE) is not None:
        return f"{NOT_IN_REGIONS}it changes the layer's size"
    inner = (
        None if delta.algorithm == "bias" else _turned(_of(patcher, site, delta, strength), target)
    )
    kernel = kernel_of(patcher, site)
    if inner is not None and len(kernel) == 2:
        inner = Convolution(inner, kernel)
    bias = delta.get(BIAS) if has_bias(patcher, site) else None
    if bias is None:
        return inner if inner is not None else "this layer has no bias in this model"
    width = size_of(patcher, site.key, site.path, "")[1] or 0
    return WithBias(inner, bias.flatten().float() * strength, width)


def _of(patcher: Any, site: Site, adapter: Adapter, strength: float) -> Delta:
    if not adapter.needs_base:
        return plain_delta(adapter).scaled(strength)
    weight = base_weight(patcher, site)
    if adapter.algorithm == "set":  # it ignores the strength
        return based_delta(adapter, weight.flatten(1))
    if knows(adapter):
        return based_delta(adapter, weight.flatten(1)).scaled(strength)
    tensors = {"x" + end: tensor for end, tensor in tensors_of(adapter).items() if end != BIAS}
    (patch,) = comfy.lora.load_lora(tensors, {"x": "weight"}, log_missing=False).values()
    whole = weight.float().clone()
    changed = patch.calculate_weight(whole.clone(), site.key, strength, 1.0, None, lambda a: a)
    return Whole((changed - whole).flatten(1))


def _turned(delta: Delta, target: Target) -> Delta:
    """With what ComfyUI's map does to a delta of that name (swapped halves)."""
    if target.function is None:
        return delta
    if isinstance(delta, LowRank):
        return replace(delta, up=target.function(delta.up))
    return Whole(target.function(delta.matrix()))


def base_weight(patcher: Any, site: Site) -> torch.Tensor:
    """The site's weight without any patch, as it is stored; not a copy."""
    saved = patcher.backup.get(site.key)
    weight = comfy.utils.get_attr(patcher.model, site.key) if saved is None else saved.weight
    weight = weight.detach()
    if hasattr(weight, "dequantize") and type(weight) is not torch.Tensor:
        weight = weight.dequantize()
    return weight if site.part is None else weight.narrow(0, *site.part)
