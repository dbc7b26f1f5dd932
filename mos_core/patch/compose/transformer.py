"""What Composer Attention does otherwise on diffusion transformers, in words for its user."""

from collections.abc import Sequence

from ...compose.drawn import Drawn
from ...compose.isolation import cell_members
from ...compose.settings import ALL, BY_AREA, SKIP, ComposerSettings
from ...families import Family
from ...families.family import JOINT, SAMPLE

GRID = 64  # cells of a side on which background is looked for
ACTS = {
    BY_AREA: "act by the region's share of the picture",
    SKIP: "are left out",
    ALL: "act on the whole picture",
}


def transformer_notes(
    family: Family, drawn: Sequence[Drawn], settings: ComposerSettings
) -> tuple[str, ...]:
    """Sentences on what was chosen and has no effect, or acts in another way."""
    assert family.sequence is not None
    notes = []
    if settings.injection != "full":
        notes.append(
            f"Injection '{settings.injection}' is for UNets; on {family.title} every layer of a "
            "LoRA acts in its region."
        )
    if settings.guidance.updates:
        notes.append(
            f"The first {settings.guidance.steps} steps are led: on {family.title} such a step "
            "runs half of the model once more, and back, in pieces that are computed twice to save "
            "memory. Without it (guidance_steps 0, reinitialise off) a step costs little more than "
            "a plain one, and on the small transformer that ships about as many characters were "
            "right."
        )
    if settings.placement and JOINT not in family.sequence.attention.values():
        notes.append(
            "Placement needs text and picture in one attention; on "
            f"{family.title} a region reads its own text alone, and placement is not used."
        )
    if settings.isolation and not settings.border and len(drawn) > 1 and not some_background(drawn):
        notes.append(
            "The regions leave nothing of the picture between them: with isolation each is drawn "
            "as a picture of its own, and seams show where they touch. Set isolation_border to "
            "0.25, leave a strip free between them, or switch isolation off."
        )
    choice = settings.picture_layers
    concepts = {id(one.concept): one.concept for one in drawn if one.concept is not None}
    for bound in concepts.values():
        roles = [family.role(site.path) for site in bound.model]
        whole = sum(role is not None and role.stream == SAMPLE for role in roles)
        if whole:
            notes.append(
                f"{whole} of the {len(roles)} layers of '{bound.concept.name}' see the picture as "
                f"a whole; they {ACTS[choice]} (picture_layers: {choice})."
            )
        if None in roles:
            notes.append(
                f"{roles.count(None)} layers of '{bound.concept.name}' work on texts before they "
                "come to the regions, and are not used."
            )
    return tuple(notes)


def some_background(drawn: Sequence[Drawn]) -> bool:
    """Whether some of the picture belongs to no region (on a map of GRID x GRID cells)."""
    return not bool(cell_members([one.region for one in drawn], GRID, GRID).any(0).all())


def reference_notes(family: Family, drawn: Sequence[Drawn]) -> tuple[str, ...]:
    """Regions that name a reference picture on a model that knows none."""
    if family.sequence is not None and family.sequence.references:
        return ()
    return tuple(
        f"The region '{one.region.name}' names the reference picture '{one.region.reference}'; "
        f"{family.title} has no reference pictures, and it means nothing there."
        for one in drawn
        if one.region.reference is not None
    )
