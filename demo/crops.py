"""Crops of composed pictures: what the VAE is trained and measured on."""

import numpy as np
import torch
from characters import all_characters
from compose import random_scene

CENTRED = 0.75  # of the crops: around a character; the others anywhere
SHAKE = 0.09  # how far a crop's centre may lie from the character's, fraction of the height


def corner_of(box, shape, crop: int, rng) -> tuple[int, int]:
    """y, x of a crop around the box of a character, shaken, inside the picture."""
    height, width = shape[:2]
    centres = ((box[1] + box[3]) / 2 * height, (box[0] + box[2]) / 2 * width)
    shaken = (c + rng.uniform(-SHAKE, SHAKE) * height - crop / 2 for c in centres)
    y, x = (
        int(np.clip(round(c), 0, side - crop))
        for c, side in zip(shaken, (height, width), strict=True)
    )
    return y, x


def make_crops(
    sprites, count: int, crop: int, size: int, seed: int, centred: float = CENTRED
) -> torch.Tensor:
    """(count, 3, crop, crop) uint8 crops of composed pictures of height `size`, the share `centred`
    of them around characters."""
    rng, crops = np.random.default_rng(seed), []
    words = [c.word for c in all_characters() if c.word in sprites]
    while len(crops) < count:
        shape = str(rng.choice(["square", "wide"], p=[0.7, 0.3]))
        scene = random_scene(sprites, words, shape, rng, size)
        for box in scene.boxes:
            y, x = corner_of(box, scene.picture.shape, crop, rng)
            if rng.random() >= centred:
                y = int(rng.integers(0, scene.picture.shape[0] - crop + 1))
                x = int(rng.integers(0, scene.picture.shape[1] - crop + 1))
            crops.append(scene.picture[y : y + crop, x : x + crop])
    return torch.from_numpy(np.stack(crops[:count])).permute(0, 3, 1, 2).contiguous()
