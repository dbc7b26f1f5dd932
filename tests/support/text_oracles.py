"""A CLIP that knows a concept, and stock encodings to compare it with."""

import pytest

from mix_of_show.mos_core.patch.apply import apply_to_clip
from mix_of_show.mos_core.patch.host.bind import match_names
from mix_of_show.mos_core.patch.host.weights import merge_named
from mix_of_show.mos_core.records import WeightedConcept
from support.tiny_models import LAYERS, WIDTH

TOLERANCE = 3e-6  # the same sums in batches of another size


def encode(clip, prompt):
    """As CLIPTextEncode: (1, tokens, layers * width) and the dictionary beside it."""
    ((cond, extras),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
    return cond, extras


def by_layer(wide):
    return wide.unflatten(-1, (LAYERS, WIDTH))[0].transpose(0, 1)  # (layers, tokens, width)


@pytest.fixture(scope="module")
def entry(concepts):
    return (WeightedConcept(concepts["a"], 1.0, 0.8),)


@pytest.fixture
def knowing(clip, entry):
    """The CLIP that knows <a1> and <a2>."""
    return apply_to_clip(clip, entry)


@pytest.fixture
def merged(clip, concepts):
    """The stock CLIP with the same weights, but without concept tokens."""
    stock = clip.clone()
    matched = match_names(None, clip, concepts["a"])
    merge_named(stock.patcher, concepts["a"], matched.text, 0.8)
    return stock
