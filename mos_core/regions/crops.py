"""Crops of a picture around regions: which rectangle, how large, and back into the picture."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True)
class Crop:
    """A rectangle of a picture, x0 <= x < x1 and y0 <= y < y1 in pixels, and the size (width,
    height) in which it is drawn."""

    x0: int
    y0: int
    x1: int
    y1: int
    width: int
    height: int


def plan_crop(alpha: torch.Tensor, context: float, side: int, multiple: int = 16) -> Crop | None:
    """The rectangle around what is above 0 of a mask (height, width); None: nothing is.

    context: how much larger than that it is, 1 or more. side: it is drawn with about as many pixels
    as a square of this side, each side a multiple of `multiple`. The rectangle has the shape of the
    size that it is drawn in, as near as whole pixels and the picture's borders allow.
    """
    if alpha.max() <= 0:
        return None
    height, width = alpha.shape
    rows, columns = (alpha > 0).nonzero(as_tuple=True)
    top, bottom = int(rows.min()), int(rows.max()) + 1
    left, right = int(columns.min()), int(columns.max()) + 1
    across = min(width, (right - left) * context)
    down = min(height, (bottom - top) * context)
    scale = side / (across * down) ** 0.5
    drawn = [max(multiple, multiple * round(s * scale / multiple)) for s in (across, down)]
    ratio = drawn[0] / drawn[1]
    across, down = max(across, down * ratio), max(down, across / ratio)
    x0, x1 = _interval((left + right) / 2, across, right - left, width)
    y0, y1 = _interval((top + bottom) / 2, down, bottom - top, height)
    return Crop(x0, y0, x1, y1, *drawn)


def _interval(middle: float, length: float, least: int, whole: int) -> tuple[int, int]:
    """Whole pixels around a middle, moved inside 0..whole."""
    size = min(whole, max(least, round(length)))
    start = min(max(0, round(middle - size / 2)), whole - size)
    return start, start + size


def cut(picture: torch.Tensor, crop: Crop) -> torch.Tensor:
    """(1, height, width, channels) of a picture (1, height, width, channels), at the crop's
    size."""
    part = picture[:, crop.y0 : crop.y1, crop.x0 : crop.x1]
    return resize(part, crop.width, crop.height)


def resize(picture: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """A picture (1, height, width, channels) in another size, clamped to 0..1."""
    if picture.shape[1:3] == (height, width):
        return picture
    flat = picture.movedim(-1, 1).float()
    flat = F.interpolate(flat, (height, width), mode="bicubic", antialias=True)
    return flat.movedim(1, -1).clamp(0, 1)


def paste(
    picture: torch.Tensor, drawn: torch.Tensor, crop: Crop, alpha: torch.Tensor
) -> torch.Tensor:
    """The picture (1, height, width, channels) with `drawn` (1, any size, channels) in the crop's
    rectangle, by the shares of alpha (height, width). Where alpha is 0 every bit stays."""
    back = resize(drawn.to(picture), crop.x1 - crop.x0, crop.y1 - crop.y0)
    own = alpha[crop.y0 : crop.y1, crop.x0 : crop.x1, None].to(picture)
    there = picture[:, crop.y0 : crop.y1, crop.x0 : crop.x1]
    back = back[..., : picture.shape[-1]]
    if back.shape[-1] < picture.shape[-1]:  # an alpha channel that the VAE does not know
        back = torch.cat([back, there[..., back.shape[-1] :]], -1)
    mixed = torch.where(own > 0, own * back + (1 - own) * there, there)
    result = picture.clone()
    result[:, crop.y0 : crop.y1, crop.x0 : crop.x1] = mixed
    return result
