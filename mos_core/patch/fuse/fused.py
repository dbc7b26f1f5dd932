"""A fusion on a clone of MODEL and CLIP, and the base model that it belongs to."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from ...deltas import Whole
from ...errors import ArchitectureError
from ...families import family_named, family_of
from ...records import Fused, Site
from ..apply import check_fits_clip, check_fits_model
from ..host.weights import merge_sites
from ..text.layerwise_clip import add_vocabulary, vocabulary_of
from ..text.layerwise_model import add_layerwise_text
from .names import sites_of

SAMPLES = 64  # values per weight that go into a fingerprint


def apply_fused(model: Any, clip: Any, fused: Fused, any_base: bool = False) -> tuple[Any, Any]:
    """(MODEL, CLIP) with the fused weights, knowing all tokens; neither input is changed.

    Raises ArchitectureError for another kind of model, or (unless `any_base`) another base model.
    """
    family, attention = family_of(model.model.model_config.unet_config)
    vocabulary = vocabulary_of(clip)
    check_kind(fused, family.name)
    for concept in fused.concepts:
        check_fits_model(concept, model)
        check_fits_clip(concept, clip)
        vocabulary = vocabulary.extended(concept)
    patched, coder = model.clone(), clip.clone()
    on_clip, on_model = sites_of(fused.text, attention), sites_of(fused.unet, attention)
    merge_sites(patched, whole(on_model), "the fusion")
    merge_sites(coder.patcher, whole(on_clip), "the fusion")
    if not any_base and fingerprint(model, clip, on_clip, on_model) != fused.base:
        raise ArchitectureError(
            "this fusion was made from another base model than this MODEL and CLIP; load the "
            "checkpoint that it was made from, or switch on 'allow_other_base'"
        )
    if vocabulary.tokens:
        add_layerwise_text(patched)
        add_vocabulary(coder, vocabulary)
    return patched, coder


def check_kind(fused: Fused, name: str) -> None:
    """Raises ArchitectureError for a fusion that was made for another kind of model."""
    if fused.architecture != name:
        made_for = family_named(fused.architecture)
        raise ArchitectureError(
            f"this fusion was made for {made_for.title if made_for else fused.architecture}, this "
            f"MODEL is {name}; load the checkpoint that it was made from"
        )


def whole(deltas: Mapping[Site, torch.Tensor]) -> dict[Site, Whole]:
    return {site: Whole(delta.flatten(1)) for site, delta in deltas.items()}


def fingerprint(model: Any, clip: Any, text: Iterable[Site], unet: Iterable[Site]) -> str:
    """A hash of the unpatched base weights of the changed layers (a few values of each, as fp16).

    The same for a checkpoint loaded in fp16 and in fp32; not in bf16 or fp8, which round otherwise.
    """
    digest = hashlib.sha256()
    for patcher, keys in (
        (clip.patcher, sorted({site.key for site in text})),
        (model, sorted({site.key for site in unet})),
    ):
        originals = patcher.get_key_patches()
        for key in keys:
            weight = originals[key][0]
            weight = weight[0] if isinstance(weight, tuple) else weight
            flat = weight.detach().flatten()
            picked = flat[:: max(1, flat.numel() // SAMPLES)].to("cpu", torch.float16)
            digest.update(f"{key} {tuple(weight.shape)}".encode() + picked.numpy().tobytes())
    return digest.hexdigest()
