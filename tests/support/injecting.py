"""One or two concepts in regions of a tiny model."""

import pytest

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.patch.compose.composer import draw_regions
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions

TOLERANCE = 2e-5
WHOLE, LEFT, RIGHT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
ISOLATED = ("off", "on")


def layout(*regions):
    return Regions(128, 128, regions)


def compose(model, clip, concepts, regions, setting="full", isolation="off"):
    """The model with the concepts in their regions, without guidance."""
    assigned, _ = assign_concepts(regions, concepts)
    drawn = draw_regions(model, clip, regions, concepts, assigned)
    patched = add_regional_attention(model, drawn, setting, isolation)
    add_layerwise_text(patched)
    return patched


@pytest.fixture(scope="module")
def chain(concepts):
    """v changes every kind of layer; a the attentions."""
    return WeightedConcept(concepts["v"], 0.8, 0.9), WeightedConcept(concepts["a"])


def two_sides():
    return layout(
        Region("a <v1> <v2>, red car", "lowres", box=LEFT), Region("<a1> <a2>", "blurry", box=RIGHT)
    )
