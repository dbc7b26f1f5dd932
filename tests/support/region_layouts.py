"""Layouts of regions on one small feature map, for the tests of what is shared among them."""

import pytest
import torch

from mix_of_show.mos_core.regions.region import Box, Region

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
LAYOUTS = {
    "one for all": [Region("a", box=Box(0, 0, 1, 1))],
    "two for all": [Region("a", box=Box(0, 0, 1, 1)), Region("b", box=Box(0, 0, 1, 1))],
    "side by side": [Region("a", box=LEFT), Region("b", box=RIGHT)],
    "with background": [
        Region("a", box=Box(0, 0, 0.25, 1)),
        Region("b", box=Box(0.75, 0, 1, 0.5)),
    ],
    "overlapping": [
        Region("a", box=Box(0, 0, 0.75, 0.75)),
        Region("b", box=Box(0.5, 0, 1, 1)),
        Region("c", box=Box(0.5, 0.5, 1, 1)),
    ],
    "soft": [Region("a", mask=torch.linspace(0, 1, 8).expand(8, 8)), Region("b", box=LEFT)],
    "weak": [Region("a", weight=0.4, box=LEFT), Region("b", weight=0.0, box=RIGHT)],
    "nothing": [Region("a", box=Box(0.51, 0.51, 0.52, 0.52))],
}
ROWS, COLUMNS = 4, 8


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS.keys())
def regions(request):
    return request.param


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
