"""Settings of Find Regions."""

from dataclasses import dataclass

SHAPES = ("silhouette", "area", "box")
MISSING = ("a free place", "left out")


@dataclass(frozen=True)
class FindSettings:
    """spread: how often the maps are spread by self-attention, 0..4. background: from which share
    of a map's strength a cell is no background, 0..1. shape: of SHAPES; silhouette: the thing's
    outline; area: that, and what is nearer to it than to others, up to its own size away; box: the
    box around it. grow: the outline's growth as a share of the thing's size (root of its area),
    never over what is nearer to another thing. feather: of the edge, in cells of the maps. missing:
    of MISSING, what becomes of a concept that was not found.
    """

    spread: int = 1
    background: float = 0.35
    shape: str = "silhouette"
    grow: float = 0.25
    feather: float = 0.5
    missing: str = MISSING[0]
