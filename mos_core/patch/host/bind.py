"""A concept meets a MODEL and a CLIP: names and strengths are resolved here, and only here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...adapters import BIAS, Adapter
from ...deltas import Delta
from ...errors import ArchitectureError
from ...families import family_named, family_of
from ...records import Bound, Concept, Site, WeightedConcept
from .based import bound_delta
from .fit import check_site, has_bias, kernel_of
from .names import Target, is_text_name, names_of_clip, names_of_model

NOT_HERE = "this model has no such layer"
NO_CLIP = "belongs to a text encoder, and there is none here"
NO_BIAS = "this layer has no bias in this model"
NO_MODEL = "belongs to the model, and there is none here"
TWICE = "is the same layer as another name of the file, which is used"
OTHER_UNET = "sd"  # a family of many kinds of UNets


@dataclass(frozen=True, eq=False)
class Matched:
    """Which delta of a concept goes where.

    model, text: name in the file -> target. left: names that lead nowhere -> why. strange: those of
    the found names that ComfyUI's own Load LoRA does not know.
    """

    model: Mapping[str, Target]
    text: Mapping[str, Target]
    left: Mapping[str, str]
    strange: tuple[str, ...] = ()


def bind(model: Any, clip: Any, entry: WeightedConcept) -> Bound:
    """The concept's deltas at their sites, strengths multiplied in.

    model: ModelPatcher, clip: comfy.sd.CLIP; either may be None, whose side is then left empty.
    Raises ArchitectureError for a concept that does not fit: a delta of another shape, nothing of
    it found in the model, or a module of an ED-LoRA that is missing.
    """
    concept, matched = entry.concept, match_names(model, clip, entry.concept)
    left = dict(matched.left)
    on_model = _at_sites(model, concept, matched.model, entry.strength_model, left)
    coder = getattr(clip, "patcher", None)
    on_text = _at_sites(coder, concept, matched.text, entry.strength_clip, left)
    maps = {site: delta for site, delta in on_model.items() if kernel_of(model, site)}
    rows = {site: delta for site, delta in on_model.items() if site not in maps}
    return Bound(concept, rows, on_text, left, maps)


def match_names(model: Any, clip: Any, concept: Concept) -> Matched:
    """Where every delta of the concept goes; model and clip as for bind, and so are the errors."""
    of_model = None if model is None else names_of_model(model)
    of_clip = None if clip is None else names_of_clip(clip)
    if model is not None:
        check_base(concept, model)
    on_model: dict[str, Target] = {}
    on_text: dict[str, Target] = {}
    left: dict[str, str] = {}
    taken: dict[Site, str] = {}
    for name in concept.deltas:
        text = is_text_name(name)
        names, chosen = (of_clip, on_text) if text else (of_model, on_model)
        if names is None:
            left[name] = NO_CLIP if text else NO_MODEL
            continue
        found = names.find(name)
        if found is None:
            left[name] = NOT_HERE
            continue
        before = taken.get(found.site)
        if before is not None and not names.wins(name, before):
            left[name] = TWICE
            continue
        if before is not None:
            del chosen[before]
            left[before] = TWICE
        chosen[name] = found
        taken[found.site] = name
    for chosen, patcher in ((on_model, model), (on_text, getattr(clip, "patcher", None))):
        for name, found in chosen.items():
            _note_bias(patcher, name, found, concept, left)
    _check_found(concept, left, on_model, False)
    _check_found(concept, left, on_text, True)
    sides = ((of_model, on_model), (of_clip, on_text))
    strange = (n for names, chosen in sides if names for n in chosen if not names.knows(n))
    return Matched(on_model, on_text, left, tuple(strange))


def _check_found(
    concept: Concept, left: Mapping[str, str], found: Mapping[str, Target], text: bool
) -> None:
    missing = [name for name, why in left.items() if why == NOT_HERE and is_text_name(name) == text]
    if missing and (concept.tables or not found):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ArchitectureError(
            f"'{concept.name}' changes '{missing[0]}', which this model does not have{more}; it "
            f"was made for another base model{_told_base(concept)}"
        )


def _told_base(concept: Concept) -> str:
    told = str(concept.metadata.get("base", ""))
    return f": {told}" if "by its layers" in told else ""


def _note_bias(
    patcher: Any, name: str, target: Target, concept: Concept, left: dict[str, str]
) -> None:
    delta = concept.deltas[name]
    lost = isinstance(delta, Adapter) and delta.get(BIAS) is not None
    if lost and not has_bias(patcher, target.site):
        left[name + BIAS] = NO_BIAS


def check_base(concept: Concept, model: Any) -> None:
    """Raises ArchitectureError for a LoRA whose file says that it is for another kind of model."""
    if concept.family is None or all(is_text_name(name) for name in concept.deltas):
        return
    here, _ = family_of(model.model.model_config.unet_config)
    made = family_named(concept.family)
    if made is not None and here is not made and here.name != OTHER_UNET:
        raise ArchitectureError(
            f"'{concept.name}' was made for {made.title}, this MODEL is {here.title}; load a "
            f"{made.title} checkpoint, or a LoRA for {here.title}"
        )


def _at_sites(
    patcher: Any,
    concept: Concept,
    targets: Mapping[str, Target],
    strength: float,
    left: dict[str, str],
) -> dict[Site, Delta]:
    sites: dict[Site, Delta] = {}
    for name, target in targets.items():
        check_site(patcher, target.site, concept.deltas[name], name, concept.name)
        if strength == 0:
            continue
        delta = bound_delta(patcher, target, concept.deltas[name], strength)
        if isinstance(delta, str):
            left[name] = delta
        else:
            sites[target.site] = delta
    return sites
