"""What Composer Attention does not do on diffusion transformers, in words for its user."""

from collections.abc import Sequence

from ...compose.drawn import Drawn
from ...compose.settings import ALL, BY_AREA, SKIP, GuidanceSettings
from ...families import Family
from ...families.family import SAMPLE

ACTS = {
    BY_AREA: "act by the region's share of the picture",
    SKIP: "are left out",
    ALL: "act on the whole picture",
}


def transformer_notes(
    family: Family,
    drawn: Sequence[Drawn],
    injection: str,
    guidance: GuidanceSettings,
    picture_layers: str,
) -> tuple[str, ...]:
    """Sentences; guidance and picture_layers as chosen."""
    notes = []
    if injection != "full":
        notes.append(
            f"Injection '{injection}' is for UNets; on {family.title} every layer of a LoRA acts "
            "in its region."
        )
    if guidance.updates or guidance.reinitialise:
        notes.append(
            "Enhancement, fill, restriction and re-initialisation lead the latent of UNets; on "
            f"{family.title} they are not used."
        )
    concepts = {id(one.concept): one.concept for one in drawn if one.concept is not None}
    for bound in concepts.values():
        roles = [family.role(site.path) for site in bound.model]
        whole = sum(role is not None and role.stream == SAMPLE for role in roles)
        if whole:
            notes.append(
                f"{whole} of the {len(roles)} layers of '{bound.concept.name}' see the picture as "
                f"a whole; they {ACTS[picture_layers]} (picture_layers: {picture_layers})."
            )
        if None in roles:
            notes.append(
                f"{roles.count(None)} layers of '{bound.concept.name}' work on texts before they "
                "come to the regions, and are not used."
            )
    return tuple(notes)
