"""Depth, strength and reference of the regions that a node adds, as boxes of a layout have them."""

from dataclasses import replace

from .region import Regions


def with_values(
    added: Regions,
    before: Regions | None,
    depth: int = 0,
    strength: float = 1.0,
    reference: str = "",
) -> Regions:
    """`added`, those of its regions that are not `before`'s with the given values.

    depth: where regions overlap, the larger one is in front; 0: equals share. strength: of the
    concept's LoRA in the region. reference: number of a reference picture; empty: none.
    """
    first = len(before.regions) if before else 0
    new = (
        replace(
            region,
            depth=float(depth) if depth else region.depth,
            strength=strength,
            reference=reference.strip() or region.reference,
        )
        for region in added.regions[first:]
    )
    return Regions(added.width, added.height, (*added.regions[:first], *new), added.notes)
