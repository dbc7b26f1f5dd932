"""Regions against the reference's numbers: Mix-of-Show's regional sampling."""

import pytest
import torch
from tiny.test_golden import predict_noise

from mix_of_show.mos_core.patch.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.patch.regional import add_regional_attention
from mix_of_show.mos_core.patch.regional_texts import RegionText
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.golden import read_tensors, relative_error
from support.tiny_models import LAYERS

TOLERANCE = 1e-4


def wide(text):
    """(16, tokens, width) or (tokens, width) -> (1, tokens, 16 * width)"""
    layers = text if text.ndim == 3 else text.expand(LAYERS, -1, -1)
    return layers.transpose(0, 1).flatten(1)[None]


def region_case(case):
    tensors = read_tensors("region")
    height, width = tensors[f"{case}.size_px"].tolist()
    regions, texts = [], []
    number = 0
    while f"{case}.region{number}.cond" in tensors:
        y0, x0, y1, x1 = tensors[f"{case}.region{number}.box_frac"].tolist()
        regions.append(Region(f"region {number}", box=Box(x0, y0, x1, y1)))
        texts.append(
            RegionText(*(wide(tensors[f"{case}.region{number}.{h}"]) for h in ("cond", "uncond")))
        )
        number += 1
    context = torch.cat([wide(tensors[f"{case}.context.{h}"]) for h in ("uncond", "cond")])
    return Regions(width, height, tuple(regions)), texts, context


@pytest.mark.parametrize("case", ["sq_base"])
def test_x(case, unet):
    tensors = read_tensors("region")
    regions, texts, context = region_case(case)
    model = unet.clone()
    add_layerwise_text(model)
    patched = add_regional_attention(model, regions, texts)
    latent = tensors[f"{case}.latent"].repeat(2, 1, 1, 1)
    t = int(tensors[f"{case}.timestep"])
    patched.model_options["transformer_options"]["cond_or_uncond"] = [1, 0]
    found = predict_noise(patched, latent, t, context)
    print(relative_error(found, tensors[f"{case}.noise_pred"]))
    print(
        relative_error(
            predict_noise(model, latent, t, context), tensors[f"{case}.noise_pred_noregion"]
        )
    )
    assert relative_error(found, tensors[f"{case}.noise_pred"]) < TOLERANCE
