"""Regional attention in its smallest forms."""

import pytest

from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.sample import RegionalAttention

TOLERANCE = 2e-5
WHOLE = Box(0, 0, 1, 1)
LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
PROMPT, NEGATIVE = "a red car near the forest", "lowres, bad anatomy"


def layout(*regions):
    return Regions(128, 128, regions)


def two_sides(**options):
    return layout(
        Region(PROMPT, NEGATIVE, box=LEFT, **options), Region("photo of a lake", box=RIGHT)
    )


def patch(model, clip, regions):
    return RegionalAttention.execute(model, clip, regions)[0]


@pytest.fixture(scope="module")
def loud(unet, clip, concepts):
    """MODEL and CLIP with a concept: prompts are layer-wise."""
    return apply_concepts(unet, clip, (WeightedConcept(concepts["a"]),))


@pytest.fixture(params=["narrow", "wide"])
def pair(request, unet, clip, loud):
    return (unet, clip) if request.param == "narrow" else loud
