"""Edges of masks: grown or shrunk, and feathered."""

import torch
import torch.nn.functional as F
from scipy import ndimage


def grow(masks: torch.Tensor, pixels: int) -> torch.Tensor:
    """masks (n, height, width) with every white part `pixels` larger on each side; smaller where
    `pixels` is negative. Round corners; what is grey keeps its value."""
    if pixels == 0:
        return masks
    steps = torch.arange(-abs(pixels), abs(pixels) + 1)
    disc = (steps[:, None] ** 2 + steps**2 <= pixels**2).numpy()
    change = ndimage.grey_dilation if pixels > 0 else ndimage.grey_erosion
    grown = [torch.from_numpy(change(mask.numpy(), footprint=disc)) for mask in masks]
    return torch.stack(grown) if grown else masks


def feather(masks: torch.Tensor, pixels: float) -> torch.Tensor:
    """masks (n, height, width) with a soft edge of about `pixels` on each side of the old one.

    A Gaussian of half that standard deviation; the picture's own border stays as it is.
    """
    if pixels <= 0:
        return masks
    sigma = pixels / 2
    reach = max(1, round(3 * sigma))
    x = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = (-(x**2) / (2 * sigma**2)).exp()
    kernel = kernel / kernel.sum()
    soft = F.pad(masks[:, None].float(), (reach,) * 4, mode="replicate")
    soft = F.conv2d(F.conv2d(soft, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return soft[:, 0].clamp(0, 1)
