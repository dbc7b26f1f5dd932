"""isolation_border on models: where regions touch their edges see each other, elsewhere nothing
changes."""

import pytest
import torch

from mix_of_show.mos_core.compose.isolation import Isolation
from mix_of_show.mos_core.compose.settings import ComposerSettings
from mix_of_show.mos_core.patch.compose.composer import apply_composer
from mix_of_show.mos_core.regions.region import Box, Region
from support.dit_models import dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import LEFT, RIGHT, random_lora, region, text_of, with_regions
from support.injecting import (
    chain,  # noqa: F401 (fixtures)
    compose,
    layout,
    two_sides,
)
from support.sampling import encode, sample

APART = Box(0, 0, 0.25, 1), Box(0.75, 0, 1, 1)
OPEN = Isolation("on", 0.25)


def pictures(name, boxes):
    """Of two regions: isolated, with an open border, not isolated."""
    model = tiny_dit(name)
    drawn = [
        region(box, text_of(name, 3 + n, 5 + n), random_lora(model, n))
        for n, box in enumerate(boxes)
    ]
    prompts = dit_conditioning(name, 1), dit_conditioning(name, 2)
    return [
        draw_dit(with_regions(model, drawn, isolation), name, *prompts)
        for isolation in ("on", OPEN, "off")
    ]


@pytest.mark.parametrize("name", ["flux", "z_image", "qwen_image", "cosmos"])
def test_a_transformers_border_is_open_where_regions_touch(name):
    closed, opened, free = pictures(name, (LEFT, RIGHT))
    assert not torch.equal(opened, closed)
    assert not torch.equal(opened, free)
    closed, opened, free = pictures(name, APART)
    assert torch.equal(opened, closed)
    assert not torch.equal(opened, free)


def test_a_unets_border_is_open_where_regions_touch(unet, clip, chain):
    touching = two_sides()
    apart = layout(
        *(Region(one.prompt, box=box) for one, box in zip(touching.regions, APART, strict=True))
    )
    prompts = encode(clip, "photo"), encode(clip, "blurry")

    def drawn(regions, isolation):
        return sample(compose(unet, clip, chain, regions, isolation=isolation), *prompts)

    assert torch.equal(drawn(apart, OPEN), drawn(apart, "on"))
    opened = drawn(touching, OPEN)
    assert not torch.equal(opened, drawn(touching, "on"))
    assert not torch.equal(opened, drawn(touching, "off"))


@pytest.mark.parametrize("isolation", [True, False])
def test_a_border_without_isolation_is_told(unet, clip, isolation):
    settings = ComposerSettings(isolation=isolation, border=0.25)
    *_, notes = apply_composer(unet, clip, (), layout(Region("a car", box=LEFT)), settings)
    assert ("isolation_border opens nothing: isolation is off." in notes) is not isolation
