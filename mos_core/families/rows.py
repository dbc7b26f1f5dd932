"""Rows of embedding tables: which one a cross-attention layer reads.

A table has one row per cross-attention layer (P+, Mix-of-Show), one per spatial transformer (a row
for all its blocks: 11 instead of 70 in SDXL), or a single one for the whole model (a textual
inversion).
"""

from collections.abc import Sequence

from .family import AttentionLayer

BLOCKS = ".transformer_blocks."  # below a spatial transformer


def row_of_layers(layers: Sequence[AttentionLayer], rows: int) -> tuple[int, ...] | None:
    """For each layer the row that it reads in a table of `rows`; None if no table of this model
    has so many."""
    if rows == len(layers):
        return tuple(range(rows))
    spatial = {path: i for i, path in enumerate(dict.fromkeys(map(_spatial, layers)))}
    if rows == len(spatial):
        return tuple(spatial[_spatial(layer)] for layer in layers)
    return (0,) * len(layers) if rows == 1 else None


def row_counts(layers: Sequence[AttentionLayer]) -> tuple[int, ...]:
    """How many rows a table may have beside a single one: ascending."""
    return tuple(sorted({len(set(map(_spatial, layers))), len(layers)}))


def spread(layers: Sequence[AttentionLayer], own: int, rows: int) -> tuple[int, ...] | None:
    """For each row of a table of `rows` the row in a coarser one of `own` that serves the same
    layers; None if the two tables are not of this model."""
    coarse, fine = row_of_layers(layers, own), row_of_layers(layers, rows)
    if coarse is None or fine is None or own > rows:
        return None
    return tuple(coarse[fine.index(row)] for row in range(rows))


def _spatial(layer: AttentionLayer) -> str:
    return layer.path.split(BLOCKS)[0]
