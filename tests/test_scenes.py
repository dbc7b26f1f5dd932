"""Who stands where in a picture, as `scripts/bench find_regions` and `regions_identity` count."""

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).absolute().parent.parent


@pytest.fixture
def where_in(monkeypatch):
    """The middles of `name` in a composed picture of `words`, from left to right, at night."""
    for folder in ("benchmarks", "demo"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    from _scenes import looked_at, where
    from compose import compose, read_sprites

    sprites = read_sprites(ROOT / "demo" / "sprites.npz")

    def count(words: list[str], name: str) -> list[int]:
        picture = compose(sprites, words, "night", "wide", np.random.default_rng(5)).picture
        return where(looked_at(picture), [*words, name])[name]

    yield count
    for module in ("_scenes", "_judge", "compose", "characters"):
        sys.modules.pop(module, None)


def test_an_empty_stretch_of_the_night_is_no_black_cat(where_in):
    assert where_in(["fox", "zebra", "wizard"], "blackcat") == []


def test_a_black_cat_at_night_is_found_once(where_in):
    (middle,) = where_in(["fox", "blackcat", "wizard"], "blackcat")
    assert abs(middle - 192) <= 24
