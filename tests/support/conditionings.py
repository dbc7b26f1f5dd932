"""Graphs of ComfyUI's conditioning nodes."""

import pytest
import torch

import nodes
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from support.sampling import (
    SIZE,
    some_picture,
    tiny_controlnet,
    tiny_t2i_adapter,
)

H, W = SIZE


def left_half():
    mask = torch.zeros(1, H, W)
    mask[:, :, : W // 2] = 1
    return mask


def combine(a, b):
    return nodes.ConditioningCombine().combine(a, b)[0]


def concat(a, b):
    return nodes.ConditioningConcat().concat(a, b)[0]


def average(a, b, strength=0.3):
    return nodes.ConditioningAverage().addWeighted(a, b, strength)[0]


def area(c, width=64, height=128, x=64, y=0, strength=1.0):
    return nodes.ConditioningSetArea().append(c, width, height, x, y, strength)[0]


def percentage_area(c):
    return nodes.ConditioningSetAreaPercentage().append(c, 0.5, 1.0, 0.5, 0.0, 0.8)[0]


def masked(c, mask, bounds="default", strength=1.0):
    return nodes.ConditioningSetMask().append(c, mask, bounds, strength)[0]


def during(c, start, end):
    return nodes.ConditioningSetTimestepRange().set_range(c, start, end)[0]


def zero_out(c):
    return nodes.ConditioningZeroOut().zero_out(c)[0]


def with_control(c, control, strength=1.0):
    return nodes.ControlNetApply().apply_controlnet(c, control, some_picture(), strength)[0]


GRAPHS = {
    "plain": lambda a, b: a,
    "combine": combine,
    "concat": concat,
    "average": average,
    "average with a longer one": lambda a, b: average(a, concat(b, b)),
    "average of a longer one": lambda a, b: average(concat(a, a), b),
    "area": lambda a, b: combine(area(a), area(b, x=0)),
    "area in percent": lambda a, b: combine(percentage_area(a), b),
    "mask": lambda a, b: combine(masked(a, left_half()), masked(b, 1 - left_half(), strength=0.7)),
    "mask bounds": lambda a, b: combine(masked(a, left_half(), "mask bounds"), b),
    "time step range": lambda a, b: combine(during(a, 0.0, 0.5), during(b, 0.5, 1.0)),
    "zero out": lambda a, b: combine(a, zero_out(b)),
    "controlnet": lambda a, b: with_control(concat(a, b), tiny_controlnet()),
    "t2i adapter": lambda a, b: with_control(concat(a, b), tiny_t2i_adapter()),
    "controlnet after t2i adapter": lambda a, b: with_control(
        with_control(a, tiny_t2i_adapter()), tiny_controlnet(), 0.5
    ),
}


@pytest.fixture(scope="module")
def loud(unet, clip, concepts):
    return apply_concepts(unet, clip, (WeightedConcept(concepts["a"], 1.0, 1.0),))
