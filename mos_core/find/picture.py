"""What was found, as pictures: the regions, and each mention's attention."""

import torch
import torch.nn.functional as F

from ..regions.picture import draw_regions
from ..regions.region import Regions
from .silhouettes import Maps


def draw_found(regions: Regions, maps: Maps, background: torch.Tensor | None) -> torch.Tensor:
    """(1 + mentions, height, width, 3) float32 in 0..1, as large as the canvas: the regions on the
    background, then the attention map of each mention.

    background: an IMAGE, what the short run drew; None: all maps together.
    """
    size = (regions.height, regions.width)
    brightest = maps.words.flatten(1).amax(1)[:, None, None].clamp(min=1e-9)
    grey = F.interpolate((maps.words / brightest)[:, None].float(), size, mode="bilinear")
    pictures = grey.movedim(1, -1).expand(-1, -1, -1, 3).clamp(0, 1)
    under = pictures.amax(0, keepdim=True) if background is None else background
    return torch.cat([draw_regions(regions, under), pictures])
