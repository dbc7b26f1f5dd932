"""How well a drawn character matches its sprite: the correlation of its colours with the sprite's,
inside the sprite's outline, at the best place and size.

1 is the sprite itself, up to brightness and contrast; 0 is no likeness. It says what the judge of
identity does not: how sharp and how complete a character is that is told from all others.
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from _judge import SPRITES
from PIL import Image

HEIGHT = 128  # of the pictures; sprites are SIZES high in them
SIZES = range(52, 63)
SOLID = 0.97  # opacity from which a pixel is the sprite's alone
MARGIN = 6  # pixels beyond the box in which the character may stand


def match(picture: np.ndarray, box, name: str) -> float:
    """Correlation, -1 .. 1, of the character `name` in `box` with its sprite.

    `picture` (h, w, 3) in 0..1 or uint8, HEIGHT pixels high; `box` fractions x0 y0 x1 y1.
    """
    picture = np.asarray(picture)
    x = torch.tensor(picture).float() / (255 if picture.dtype == np.uint8 else 1)
    height, width = picture.shape[:2]
    if height != HEIGHT:
        raise ValueError(f"A match is looked for in pictures {HEIGHT} high, not {height}.")
    x0, x1 = (box[0] * width - MARGIN, box[2] * width + MARGIN)
    y0, y1 = (box[1] * height - MARGIN, box[3] * height + MARGIN)
    x = x[max(0, round(y0)) : round(y1), max(0, round(x0)) : round(x1)].permute(2, 0, 1)[None]
    return max(float(correlations(x, *kernel).max()) for kernel in kernels(name))


def correlations(x: torch.Tensor, alpha: torch.Tensor, colour: torch.Tensor) -> torch.Tensor:
    """(1, 3, h, w), outline (1, 1, s, s), colours inside it, centred, (1, 3, s, s), of
    unit variance -> the weighted correlation at every place (1, 1, h - s + 1, w - s + 1)"""
    weight = 3 * alpha.sum()
    total = F.conv2d(x.sum(1, keepdim=True), alpha)
    squares = F.conv2d(x.square().sum(1, keepdim=True), alpha)
    variance = squares / weight - (total / weight).square()
    return F.conv2d(x, colour) / weight / variance.clamp(min=1e-6).sqrt()


@lru_cache(maxsize=8)
def kernels(name: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The sprite at every size: its outline and its colours, centred, weighted by the outline."""
    with np.load(SPRITES) as archive:
        sprite = Image.fromarray(archive[name])
    found = []
    for size in SIZES:
        small = np.asarray(sprite.resize((size, size), Image.Resampling.BOX), np.float32) / 255
        small = torch.from_numpy(small).permute(2, 0, 1)[None]
        alpha, colour = (small[:, 3:] > SOLID).float(), small[:, :3]
        weight = 3 * alpha.sum()
        colour = colour - (alpha * colour).sum() / weight
        deviation = ((alpha * colour.square()).sum() / weight).sqrt()
        found.append((alpha, alpha * colour / deviation))
    return found
