"""A concept meets a MODEL and a CLIP: names and strengths are resolved here, and only here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...deltas import Delta
from ...errors import ArchitectureError
from ...records import Bound, Concept, Site, WeightedConcept
from .names import ModelNames, Target, is_text_name, names_of_clip, names_of_model
from .weights import check_site

NOT_HERE = "this model has no such layer"
NO_CLIP = "belongs to a text encoder, and there is none here"
NO_MODEL = "belongs to the model, and there is none here"


@dataclass(frozen=True, eq=False)
class Matched:
    """Which delta of a concept goes where.

    model, text: name in the file -> target. left: names that lead nowhere -> why.
    """

    model: Mapping[str, Target]
    text: Mapping[str, Target]
    left: Mapping[str, str]


def bind(model, clip, entry: WeightedConcept) -> Bound:
    """The concept's deltas at their sites, strengths multiplied in.

    model: ModelPatcher, clip: comfy.sd.CLIP; either may be None, whose side is then left empty.
    Raises ArchitectureError for a concept that does not fit: a delta of another shape, nothing of
    it found in the model, or a module of an ED-LoRA that is missing.
    """
    concept, matched = entry.concept, match_names(model, clip, entry.concept)
    return Bound(
        concept,
        _at_sites(model, concept, matched.model, entry.strength_model),
        _at_sites(getattr(clip, "patcher", None), concept, matched.text, entry.strength_clip),
        matched.left,
    )


def match_names(model, clip, concept: Concept) -> Matched:
    """Where every delta of the concept goes; model and clip as for bind, and so are the errors."""
    of_model = None if model is None else names_of_model(model)
    of_clip = None if clip is None else names_of_clip(clip)
    on_model: dict[str, Target] = {}
    on_text: dict[str, Target] = {}
    left: dict[str, str] = {}
    for name in concept.deltas:
        text = is_text_name(name)
        found = _find(of_clip if text else of_model, name)
        if found is not None:
            (on_text if text else on_model)[name] = found
        elif (of_clip if text else of_model) is None:
            left[name] = NO_CLIP if text else NO_MODEL
        else:
            left[name] = NOT_HERE
    _check_found(concept, left, on_model, False)
    _check_found(concept, left, on_text, True)
    return Matched(on_model, on_text, left)


def _find(names: ModelNames | None, name: str) -> Target | None:
    return None if names is None else names.find(name)


def _check_found(
    concept: Concept, left: Mapping[str, str], found: Mapping[str, Target], text: bool
) -> None:
    missing = [name for name, why in left.items() if why == NOT_HERE and is_text_name(name) == text]
    if missing and (concept.tables or not found):
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ArchitectureError(
            f"'{concept.name}' changes '{missing[0]}', which this model does not have{more}; it "
            "was made for another base model"
        )


def _at_sites(
    patcher, concept: Concept, targets: Mapping[str, Target], strength: float
) -> dict[Site, Delta]:
    sites: dict[Site, Delta] = {}
    for name, target in targets.items():
        delta = concept.deltas[name]
        check_site(patcher, target.site, delta.shape, name, concept.name)
        sites[target.site] = delta.scaled(strength)
    return sites if strength else {}
