"""The guidance of the latent on an SDXL-shaped UNet: few of its many layers, all of it led."""

import pytest
import torch

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.compose.guided_run import layer_levels, map_layers
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.sdxl_models import G_WIDTH, TEXT_WIDTH, UNET, tiny_sdxl

BOXES = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)


def text(seed, tokens=77):
    return torch.randn(1, tokens, TEXT_WIDTH, generator=torch.Generator().manual_seed(seed))


def conditioning(seed):
    pooled = torch.randn(1, G_WIDTH, generator=torch.Generator().manual_seed(seed))
    return [[text(seed), {"pooled_output": pooled}]]


def test_the_middle_block_of_each_spatial_transformer_is_looked_at():
    _, layers = family_of(UNET)
    levels = layer_levels(UNET)
    chosen = map_layers(layers, levels, 2)
    assert len(chosen) == 6  # two down, the middle, three up
    assert {levels[index] for index in chosen} == {2}
    assert len(map_layers(layers, levels, 1)) == 5


@pytest.mark.parametrize("save_memory", [False, True])
def test_regions_lead_the_latent(save_memory):
    model = tiny_sdxl()
    drawn = [
        Drawn(Region(str(i), box=box), RegionText([[text(i), {}]], None), None, (1, 2))
        for i, box in enumerate(BOXES)
    ]
    regions = Regions(128, 128, tuple(one.region for one in drawn))
    log = ComposerLog(regions, ("left", "right"))
    led = add_regional_attention(model, drawn)
    settings = GuidanceSettings(resolution="1/32", save_memory=save_memory)
    add_guidance(led, Guidance(drawn, settings, log))
    latent = {"samples": torch.zeros(1, 4, 16, 16)}
    (found,) = nodes.common_ksampler(
        led, 1, 2, 4.0, "euler", "normal", conditioning(8), conditioning(9), latent
    )
    assert torch.isfinite(found["samples"]).all()
    assert len(log.steps) == 2
    assert log.notes == []
    assert log.steps[0].maps.shape == (2, 4, 4)
    assert min(log.steps[0].terms["fill"]) > 0
