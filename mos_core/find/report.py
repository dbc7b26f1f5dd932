"""What Find Regions tells."""

from collections.abc import Sequence

from .silhouettes import FOUND, FREE, KEPT, Place

SAID = {
    FOUND: "found",
    FREE: "NOT found in the picture; it was given a free place",
    KEPT: "NOT found in its box, which was kept",
}
LEFT = "NOT found in the picture, left out"


def describe_places(names: Sequence[str], places: Sequence[Place]) -> list[str]:
    """A line for each place: the name, what became of it, how much of the map lies there and how
    much of the picture it covers."""
    lines = []
    for name, place in zip(names, places, strict=True):
        line = f"{name}: {SAID.get(place.how, LEFT)}"
        if place.how == FOUND and place.mask is not None:
            line += f" ({place.share:.0%} of its attention, {place.mask.mean():.0%} of the picture)"
        lines.append(line)
    lost = [name for name, place in zip(names, places, strict=True) if place.how != FOUND]
    if lost:
        found = len(places) - len(lost)
        lines.append(
            f"{found} of {len(places)} things were found. Name the others more plainly in the "
            "prompt, try another seed, more steps or another concept_strength, or draw a box for "
            f"them: {', '.join(lost)}."
        )
    return lines
