"""A contact sheet of training images: what a folder holds, at a glance."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

CELL = 256  # pixels at most
MOST = 64  # images that are shown


def draw_sheet(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """(1, rows * cell, columns * cell, 3) in 0..1: the first MOST images, row by row, on white.

    images: (1, h, w, 3) in 0..1 each, at least one; each is shrunk to fit a square cell.
    """
    shown = images[:MOST]
    cell = min(CELL, max(max(image.shape[1:3]) for image in shown))
    columns = math.ceil(math.sqrt(len(shown)))
    sheet = torch.ones(1, math.ceil(len(shown) / columns) * cell, columns * cell, 3)
    for number, image in enumerate(shown):
        shrink = min(1.0, cell / max(image.shape[1:3]))
        h, w = (max(1, round(side * shrink)) for side in image.shape[1:3])
        pixels = image.movedim(-1, 1).float().cpu()  # (1, 3, h, w)
        if shrink < 1:
            pixels = F.interpolate(pixels, (h, w), mode="bilinear", antialias=True)
        y, x = (number // columns) * cell, (number % columns) * cell
        y, x = y + (cell - h) // 2, x + (cell - w) // 2
        sheet[:, y : y + h, x : x + w] = pixels.movedim(1, -1)
    return sheet
