"""What of a LoRA does not act inside a region, in words for its user."""

from collections.abc import Sequence

from ...compose.drawn import Drawn
from ...families import Family
from ...families.family import SAMPLE
from ...families.stable_diffusion import TIME_ROWS
from ..host.bind import NO_CLIP

SHOWN = 3  # names of one kind, at most
TIME = "the time embedding, which the picture has as a whole"


def left_notes(family: Family, drawn: Sequence[Drawn]) -> tuple[str, ...]:
    """One sentence for each reason and concept. drawn: on a model of that family."""
    concepts = {id(one.concept): one.concept for one in drawn if one.concept is not None}
    notes = []
    for bound in concepts.values():
        reasons: dict[str, list[str]] = {}
        for name, why in bound.left.items():
            if why != NO_CLIP:  # the texts of its regions have that part
                reasons.setdefault(why, []).append(name)
        if family.sequence is None:
            for site in bound.model:
                role = family.role(site.path)
                if role is not None and role.stream == SAMPLE and not TIME_ROWS.search(site.path):
                    reasons.setdefault(f"it changes {TIME}", []).append(site.path)
        for why, names in reasons.items():
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            notes.append(
                f"Not used of '{bound.concept.name}' in its regions: {', '.join(names[:SHOWN])}"
                f"{more} ({why})."
            )
    return tuple(notes)
