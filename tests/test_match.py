"""The match of a drawn character with its sprite, which `scripts/bench identity` prints."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

ROOT = Path(__file__).absolute().parent.parent
BOX = (0.22, 0.26, 0.78, 0.82)


@pytest.fixture
def scripts(monkeypatch):
    for folder in ("benchmarks", "demo"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    yield
    for name in ("_match", "_judge", "compose", "characters"):
        sys.modules.pop(name, None)


@pytest.fixture
def fox(scripts):
    """A composed picture of a fox, (128, 128, 3) uint8."""
    from compose import compose, read_sprites

    sprites = read_sprites(ROOT / "demo" / "sprites.npz")
    rng = np.random.default_rng(3)
    return compose(sprites, ["fox"], "blue", "square", rng).picture


def test_a_composed_character_is_its_sprite_and_no_other(fox):
    from _match import match

    assert match(fox, BOX, "fox") > 0.995
    assert match(fox, BOX, "penguin") < 0.6


def test_blur_costs_match_and_brightness_does_not(fox):
    from _match import match

    blurred = Image.fromarray(fox).filter(ImageFilter.GaussianBlur(3))
    assert match(np.asarray(blurred), BOX, "fox") < 0.97
    assert match(fox / 255 * 0.5 + 0.3, BOX, "fox") > 0.995


def test_another_height_is_refused(scripts):
    from _match import match

    with pytest.raises(ValueError, match="128 high"):
        match(np.zeros((256, 256, 3)), BOX, "fox")
