"""Cells of regions on a small map, and the reference's."""

from mix_of_show.mos_core.compose.cells import region_cells
from mix_of_show.mos_core.regions.region import Box, Region
from support.golden_composer import (
    golden_regions,
)

ROWS, COLUMNS = 8, 16


def golden_cells(layout):
    return [region_cells(r, ROWS, COLUMNS) for r in golden_regions(layout).regions]


def cells_of(*sides, rows=4, columns=4):
    return region_cells(Region("", box=Box(*sides)), rows, columns)
