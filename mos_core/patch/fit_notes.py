"""What of the loaded concepts does not act on a MODEL and CLIP, in words for their user."""

from typing import Any

from ..records import Concept, Concepts
from .host.bind import NOT_HERE, match_names
from .host.names import is_text_name

SHOWN = 3  # names of one kind, at most


def fit_notes(model: Any, clip: Any, concepts: Concepts) -> tuple[str, ...]:
    """Sentences; none where everything in the files acts.

    Raises ArchitectureError as apply_concepts does.
    """
    notes = []
    for entry in concepts:
        concept = entry.concept
        matched = match_names(model, clip, concept)
        left = matched.left
        for why in dict.fromkeys(left.values()):
            names = [name for name, reason in left.items() if reason == why]
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            notes.append(
                f"'{concept.name}': {len(names)} of {len(concept.deltas)} layers are not used, "
                f"{', '.join(names[:SHOWN])}{more} ({why}{_likely(concept, names, why)})."
            )
        notes += _strange_notes(concept, matched.strange)
        if concept.unused:
            count = len(concept.unused)
            notes.append(f"'{concept.name}': {count} tensors of its file mean nothing to the pack.")
        notes += _nothing_notes(concept, entry.strength_model, entry.strength_clip)
    return tuple(notes)


def _likely(concept: Concept, names: list[str], why: str) -> str:
    if why != NOT_HERE:
        return ""
    if all(is_text_name(name) for name in names):
        return "; this CLIP has other text encoders than the LoRA was trained with"
    return "; it was probably trained on another variant of the base model"


def _strange_notes(concept: Concept, names: tuple[str, ...]) -> list[str]:
    """Of a LoRA (not of an ED-LoRA, which is for this pack): what Load LoRA does not understand."""
    if not names or concept.tables:
        return []
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [
        f"'{concept.name}': {len(names)} of {len(concept.deltas)} layers have names that ComfyUI's "
        f"own Load LoRA does not know, {', '.join(names[:SHOWN])}{more}; they act here, Load LoRA "
        "leaves them out."
    ]


def _nothing_notes(concept: Concept, model: float, clip: float) -> list[str]:
    """A LoRA of one part alone whose strength for that part is 0."""
    text = {is_text_name(name) for name in concept.deltas}
    if text == {True} and clip == 0:
        return [f"'{concept.name}' changes the text encoder alone, and its strength_clip is 0."]
    if text == {False} and model == 0:
        return [f"'{concept.name}' changes the model alone, and its strength_model is 0."]
    return []
