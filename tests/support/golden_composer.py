"""LoRA-Composer's golden data in tests/golden/composer."""

import json
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

from mix_of_show.mos_core.regions.region import Box, Region, Regions

GOLDEN = Path(__file__).absolute().parents[1] / "golden" / "composer"
LAYOUTS = ("main", "overlap")


@cache
def read_composer_config() -> dict:
    return json.loads((GOLDEN / "config.json").read_text())


@cache
def read_composer_tensors(name: str) -> dict[str, torch.Tensor]:
    """All tensors of a golden safetensors file; shared, so they are not to be written to."""
    return safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")


def golden_regions(layout: str) -> Regions:
    """The three regions of a layout, "main" or "overlap", with their prompts."""
    config = read_composer_config()
    height, width = config["image_height"], config["image_width"]
    boxes = config["boxes_px" if layout == "main" else "boxes_overlap_px"]
    regions = (
        Region(prompt, box=Box(x0 / width, y0 / height, x1 / width, y1 / height))
        for prompt, (y0, x0, y1, x1) in zip(config["prompts"], boxes, strict=True)
    )
    return Regions(width, height, tuple(regions))
