"""The judge of identity: which character of the miniature world stands in a box of a picture.

It has nothing to do with the generating model. Every sprite is laid over the box at several sizes
and places; the best one explains the picture best: inside its outline by its own colours, outside
by one flat colour. The sprites, 128 px with alpha, lie in `demo/sprites.npz`.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

SPRITES = Path(__file__).absolute().parent.parent / "demo" / "sprites.npz"
GRID = 28  # the box is looked at in 28 x 28 pixels
SIZES = (19, 21, 23, 25, 27)  # of a sprite on that grid
STRIDE = 2
OUTSIDE = 0.5  # weight of a pixel that the sprite does not explain

BOX_SIDE = 0.56  # of the box in which one character is looked for, fraction of the height


def box_of_place(
    i: int, n: int, width: int, height: int, centres=((0.5,), (0.26, 0.74), (0.18, 0.5, 0.82))
):
    """The box in which the i-th of n characters is asked for, fractions x0 y0 x1 y1 of the
    canvas."""
    side = BOX_SIDE
    x, y = centres[n - 1][i] * width / height, 0.54
    x0 = min(max(x - side / 2, 0.0), width / height - side)
    y0 = min(max(y - side / 2, 0.0), 1 - side)
    return x0 * height / width, y0, (x0 + side) * height / width, y0 + side


def identify(picture: np.ndarray, box, among=None) -> tuple[str, float]:
    """The character that stands in `box` and how well it explains it (0 badly .. 1 perfectly).

    `picture` (h, w, 3) in 0..1 or uint8; `box` fractions x0 y0 x1 y1; `among`: names, else all.
    """
    scores = scores_of(picture, box)
    if among is not None:
        scores = {name: scores[name] for name in among}
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


def scores_of(picture: np.ndarray, box) -> dict[str, float]:
    """Every character's score in the box: 1 - 4 * (root of the mean squared difference in 0..1)."""
    names, owners, alpha, colour, energy, weight, sides = _templates()
    x = look_at(picture, box)  # (GRID * GRID, 3)
    squares = x**2
    inside = (alpha @ squares.sum(1)) - 2 * (colour @ x.reshape(-1)) + energy
    outside = np.maximum(sides, 1e-3)  # pixels that are not the sprite's
    mean = (x.sum(0) - alpha @ x) / outside[:, None]
    rest = (squares.sum() - alpha @ squares.sum(1)) - (mean**2).sum(1) * outside
    error = (inside + OUTSIDE * rest) / (3 * (weight + OUTSIDE * outside))
    best = np.full(len(names), np.inf)
    np.minimum.at(best, owners, np.maximum(error, 0))
    return {name: 1 - 4 * float(e) ** 0.5 for name, e in zip(names, best, strict=True)}


def flat_score(picture: np.ndarray, box) -> float:
    """How well nobody explains the box: one flat colour alone, measured as scores_of measures."""
    x = look_at(picture, box)
    return 1 - 4 * float(((x - x.mean(0)) ** 2).mean() ** 0.5)


def look_at(picture: np.ndarray, box) -> np.ndarray:
    """The box of the picture on the judge's grid: (GRID * GRID, 3) float32 in 0..1."""
    picture = np.asarray(picture)
    if picture.dtype != np.uint8:
        picture = (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
    height, width = picture.shape[:2]
    pixels = (box[0] * width, box[1] * height, box[2] * width, box[3] * height)
    image = Image.fromarray(picture).resize((GRID, GRID), Image.Resampling.BOX, box=pixels)
    return np.asarray(image, np.float32).reshape(-1, 3) / 255


@lru_cache(maxsize=1)
def _templates():
    """Every sprite at every size and place -> names, owner (t,), alpha (t, grid), alpha * colour
    (t, grid * 3), sum of alpha * colour^2 (t,), pixels of the sprite (t,), other pixels (t,)"""
    with np.load(SPRITES) as archive:
        names = sorted(archive.files)
        sprites = [archive[name] for name in names]
    owners, alphas, colours = [], [], []
    for owner, sprite in enumerate(sprites):
        premultiplied = Image.fromarray(sprite).convert("RGBa")
        for size in SIZES:
            small = premultiplied.resize((size, size), Image.Resampling.BOX)
            small = np.asarray(small.convert("RGBA"), np.float32) / 255
            for y in range(0, GRID - size + 1, STRIDE):
                for x in range(0, GRID - size + 1, STRIDE):
                    field = np.zeros((GRID, GRID, 4), np.float32)
                    field[y : y + size, x : x + size] = small
                    owners.append(owner)
                    alphas.append(field[..., 3].reshape(-1))
                    colours.append(field[..., :3].reshape(-1, 3))
    alpha, colour = np.stack(alphas), np.stack(colours)
    weighted = (colour * alpha[..., None]).reshape(len(alpha), -1)
    energy = (colour**2).sum(2) * alpha
    weight = alpha.sum(1)
    return names, np.array(owners), alpha, weighted, energy.sum(1), weight, GRID * GRID - weight
