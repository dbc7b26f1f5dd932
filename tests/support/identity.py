"""One concept, and what is drawn with it."""

import pytest
import torch

from mix_of_show.mos_core.records import WeightedConcept
from support.sampling import encode, sample

PROMPT, NEGATIVE = "photo of a <a1> <a2>, near a lake", "lowres, bad anatomy"


def draw(model, clip, positive=PROMPT, **options):
    return sample(model, encode(clip, positive), encode(clip, NEGATIVE), **options)


@pytest.fixture
def entry(concepts):
    return (WeightedConcept(concepts["a"], 0.9, 0.8),)


def factors(module, out, into):
    return {
        f"{module}.lora_down.weight": torch.zeros(2, into),
        f"{module}.lora_up.weight": torch.zeros(out, 2),
    }
