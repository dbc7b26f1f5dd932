"""A concept meets a MODEL and a CLIP: names and strengths are resolved here, and only here."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from ...deltas import Delta
from ...families.unet import architecture_of, comfy_text_key, comfy_unet_key
from ...records import Bound, Site, WeightedConcept
from .weights import check_fit


def bind(model, clip, entry: WeightedConcept) -> Bound:
    """The concept's deltas at their sites, strengths multiplied in.

    model: ModelPatcher, clip: comfy.sd.CLIP; either may be None, whose side is then left empty.
    Raises ArchitectureError for a module that the model does not have, or of another shape.
    """
    concept = entry.concept
    on_model: Mapping[Site, Delta] = {}
    on_text: Mapping[Site, Delta] = {}
    if model is not None:
        architecture = architecture_of(model.model.model_config.unet_config)
        key = partial(comfy_unet_key, architecture=architecture)
        on_model = _at_sites(model, concept.unet, key, entry.strength_model, concept.name)
    if clip is not None:
        strength = entry.strength_clip
        on_text = _at_sites(clip.patcher, concept.text, comfy_text_key, strength, concept.name)
    return Bound(concept, on_model, on_text)


def _at_sites(patcher, factors: Mapping[str, Delta], key_of, strength: float, owner: str):
    sites = {}
    for module, delta in factors.items():
        key = key_of(module)
        check_fit(patcher, key, delta.shape, module, owner)
        sites[Site(key)] = delta.scaled(strength)
    return sites if strength else {}
