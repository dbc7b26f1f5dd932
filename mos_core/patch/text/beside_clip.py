"""A LoRA beside the layers of a text encoder, under the layer-wise encoding of concept tokens."""

from __future__ import annotations

import copy
from typing import Any

import comfy.patcher_extension
import torch

from ..host.beside import KEY, Beside, Deltas
from .layerwise_clip import METHOD, LayerwiseEncode


class EncodeBeside:
    """Stands in for a text encoder's `encode_token_weights`, with deltas beside its layers."""

    def __init__(self, model: torch.nn.Module, beside: Beside, prior: Any = None):
        self.model, self.beside, self.prior = model, beside, prior

    def __deepcopy__(self, memo: dict[int, Any]) -> EncodeBeside:
        return self

    def __call__(self, tokens: Any) -> Any:
        with self.beside.hooked(self.model, ""):
            if self.prior is not None:
                return self.prior(tokens)
            return type(self.model).encode_token_weights(self.model, tokens)


def put_beside_clip(clip: Any, deltas: tuple[Deltas, ...]) -> None:
    """On a clone of ours: deltas of a CLIP beside its layers."""
    beside, patcher = Beside(deltas), clip.patcher
    if not beside.sites:
        return
    prior = patcher.object_patches.get(METHOD)
    if isinstance(prior, LayerwiseEncode):
        own = EncodeBeside(patcher.model, beside, prior.prior)
        patcher.add_object_patch(METHOD, LayerwiseEncode(patcher.model, prior.rows, own))
    else:
        patcher.add_object_patch(METHOD, EncodeBeside(patcher.model, beside, prior))
    event = comfy.patcher_extension.CallbacksMP.ON_CLONE
    if not patcher.get_callbacks(event, KEY):
        patcher.add_callback_with_key(event, KEY, rebind_on_clone)


def rebind_on_clone(patcher: Any, clone: Any) -> None:
    """ON_CLONE callback: newer ComfyUI may give a clone another module."""
    encode = clone.object_patches.get(METHOD)
    if isinstance(encode, (LayerwiseEncode, EncodeBeside)):
        clone.add_object_patch(METHOD, _on(encode, clone.model))


def _on(encode: Any, model: torch.nn.Module) -> Any:
    if not isinstance(encode, (LayerwiseEncode, EncodeBeside)) or encode.model is model:
        return encode
    moved = copy.copy(encode)
    moved.model, moved.prior = model, _on(encode.prior, model)
    return moved
