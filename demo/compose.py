"""Compose a scene: sprites on a background, its caption, and a mask and a box for every sprite.

Pictures are (height, width, 3) uint8; boxes are fractions of the canvas, x0 y0 x1 y1.
Captions are simple and regular: "a fox on the left, a dog on the right, red background".
"""

import re
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

COLOURS = {
    "red": (214, 60, 56),
    "orange": (240, 150, 60),
    "yellow": (246, 220, 90),
    "green": (88, 176, 92),
    "blue": (72, 128, 220),
    "purple": (140, 90, 190),
    "pink": (246, 170, 200),
    "white": (248, 248, 248),
    "gray": (150, 150, 150),
    "black": (24, 24, 28),
}
# sky, ground, height of the horizon
SCENES = {
    "beach": ((140, 205, 245), (240, 215, 150), 0.62),
    "meadow": ((165, 215, 250), (110, 190, 80), 0.60),
    "night": ((22, 26, 70), (30, 50, 60), 0.75),
    "snow": ((190, 215, 235), (245, 248, 255), 0.60),
    "desert": ((250, 190, 120), (215, 150, 80), 0.58),
    "sea": ((180, 225, 250), (40, 110, 190), 0.45),
}
BACKGROUNDS = [*COLOURS, *SCENES]
# centres of the places, fractions of the width
PLACES = {
    1: {"": 0.5},
    2: {"left": 0.26, "right": 0.74},
    3: {"left": 0.18, "middle": 0.5, "right": 0.82},
    4: {"far left": 0.125, "left": 0.375, "right": 0.625, "far right": 0.875},
    5: {"far left": 0.1, "left": 0.3, "middle": 0.5, "right": 0.7, "far right": 0.9},
}
WIDTHS = {"square": 1, "wide": 3, "row": 4}  # times the height
NUMBER_ODDS = {"square": (0.4, 0.6, 0.0, 0.0), "wide": (0.1, 0.35, 0.4, 0.15)}
# Now and then a character is named in two words, so that concepts of two tokens can be read too.
ADJECTIVES = ("good", "cool", "nice", "small", "big", "bright", "dark")
ADJECTIVE_SHARE = 0.2  # of the captions
SPRITE_SIDE = (0.42, 0.48)  # of a sprite, fractions of the picture's height: one size for all


@dataclass
class Scene:
    picture: np.ndarray  # (height, width, 3) uint8
    caption: str
    words: list[str]
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)
    masks: list[np.ndarray] = field(
        default_factory=list
    )  # (height, width) uint8 each, 255 where the sprite shows


def article(word: str) -> str:
    return ("an " if word[0] in "aeio" else "a ") + word


def caption_of(words: list[str], places: list[str], background: str) -> str:
    """-> "a fox on the left, a dog on the right, red background"; a place "" is not named."""
    where = {"": "", "middle": " in the middle"}
    parts = [
        article(word) + where.get(place, f" on the {place}")
        for word, place in zip(words, places, strict=True)
    ]
    return ", ".join(parts + ([f"{background} background"] if background else []))


def draw_background(name: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """-> (height, width, 3) float32 in 0..255"""
    jitter = rng.normal(0, 4, 3)
    if name in COLOURS:
        return np.clip(
            np.broadcast_to(np.array(COLOURS[name]) + jitter, (height, width, 3)), 0, 255
        ).astype(np.float32)
    sky, ground, horizon = SCENES[name]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(0, width / height, width, dtype=np.float32)[None, :, None]
    picture = np.array(sky, np.float32) + (1 - y) * -18 + jitter + 0 * x
    line = horizon + rng.normal(0, 0.02)
    if name in ("meadow", "desert", "snow"):
        line = line + 0.04 * np.sin(2.2 * x + rng.uniform(0, 6.3))
    picture = np.where(y > line, np.array(ground, np.float32) + (y - 0.8) * 20 + jitter, picture)
    if name == "beach":
        picture = np.where(
            (y > line - 0.14) & (y <= line), np.array((60, 150, 200), np.float32), picture
        )
    if name == "night":
        cx, cy = rng.uniform(0.1, width / height - 0.1), rng.uniform(0.1, 0.2)
        picture = np.where(
            (x - cx) ** 2 + (y - cy) ** 2 < 0.005, np.array((250, 240, 190), np.float32), picture
        )
    if name == "sea":
        picture = picture + np.where(y > line, 10 * np.sin(40 * y + 2 * np.sin(3 * x)), 0)
    return np.clip(picture, 0, 255).astype(np.float32)


def paste(picture: np.ndarray, sprite: np.ndarray, size: int, cx: float, cy: float):
    """Draws `sprite` (s, s, 4) at `size` px, centred at pixels cx, cy; -> its mask and box, or
    clipped ones."""
    height, width = picture.shape[:2]
    small = np.asarray(
        Image.fromarray(sprite).resize(
            (size, size), Image.BOX if size * 2 < sprite.shape[0] else Image.BILINEAR
        )
    )
    x0 = int(np.clip(round(cx - size / 2), 0, width - size))
    y0 = int(np.clip(round(cy - size / 2), 0, height - size))
    alpha = small[..., 3:].astype(np.float32) / 255
    area = picture[y0 : y0 + size, x0 : x0 + size]
    area += alpha * (small[..., :3] - area)
    mask = np.zeros((height, width), np.uint8)
    mask[y0 : y0 + size, x0 : x0 + size] = small[..., 3]
    return mask, (x0 / width, y0 / height, (x0 + size) / width, (y0 + size) / height)


def compose(
    sprites: dict[str, np.ndarray],
    words: list[str],
    background: str,
    shape: str,
    rng: np.random.Generator,
    size: int = 128,
    name_background: bool = True,
) -> Scene:
    """One scene of `words` from left to right, `size` high; `shape` is one of WIDTHS."""
    width, n = WIDTHS[shape] * size, len(words)
    picture = draw_background(background, width, size, rng)
    places = PLACES[n]
    if n == 1 and (shape == "wide" or rng.random() < 0.15):  # one alone may also stand aside
        aside = PLACES[3 if shape == "wide" else 2]
        word = str(rng.choice(list(aside)))
        places = {word: aside[word]}
    scene = Scene(
        picture, caption_of(words, list(places), background if name_background else ""), list(words)
    )
    for word, centre in zip(words, places.values(), strict=True):
        sprite_size = int(rng.uniform(*SPRITE_SIDE) * size)
        cx = centre * width + rng.normal(0, 0.02) * size
        cy = size * rng.uniform(0.52, 0.56)
        mask, box = paste(picture, sprites[word], sprite_size, cx, cy)
        for earlier in scene.masks:
            earlier[mask > 127] = 0
        scene.masks.append(mask)
        scene.boxes.append(box)
    scene.picture = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return scene


def with_adjectives(scene: Scene, rng: np.random.Generator) -> str:
    """The caption with a word that means nothing before every character: "a nice fox, ..."."""
    caption = scene.caption
    for word in scene.words:
        named = f"{rng.choice(ADJECTIVES)} {word}"
        caption = re.sub(rf"\b{article(word)}\b", article(named), caption)
    return caption


def random_scene(
    sprites, words: list[str], shape: str, rng: np.random.Generator, size: int = 128
) -> Scene:
    """A scene of one to four different characters out of `words`."""
    n = 1 + int(rng.choice(4, p=NUMBER_ODDS[shape]))
    chosen = [str(w) for w in rng.choice(words, n, replace=False)]
    scene = compose(
        sprites, chosen, str(rng.choice(BACKGROUNDS)), shape, rng, size, rng.random() > 0.06
    )
    if rng.random() < ADJECTIVE_SHARE:
        scene.caption = with_adjectives(scene, rng)
    if rng.random() < 0.12:
        scene.caption = str(rng.choice(["a photo of ", "a picture of "])) + scene.caption
    return scene


def read_sprites(path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}
