"""Samplers that draw a picture in tiles: every tile gets all regions, and the node says so."""

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext

import nodes
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes import progress
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.sample import RegionalAttention
from support.dit_models import conditioning_of, dit_text, draw_dit, tiny_dit
from support.dit_regions import region, text_of, with_regions
from support.sampling import encode, sample

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
TWO = Regions(128, 128, (Region("a lake", box=LEFT), Region("a forest", box=RIGHT)))


@pytest.fixture
def told(monkeypatch):
    """What the nodes tell, the last text last."""
    texts = []
    monkeypatch.setattr(progress, "send_text", lambda node_id, text: texts.append(text))
    return texts


def in_tiles(apply_model, arguments):
    """A model function of another pack, which calls the model once for each half of the picture."""
    halves = arguments["input"].chunk(2, dim=-1)
    drawn = [apply_model(half, arguments["timestep"], **arguments["c"]) for half in halves]
    return torch.cat(drawn, dim=-1)


def tiled(model):
    patched = model.clone()
    patched.set_model_unet_function_wrapper(in_tiles)
    return patched


def test_tiles_inside_a_sampling_are_told(unet, clip, told):
    model = RegionalAttention.execute(unet, clip, TWO).args[0]
    text = encode(clip, "photo")
    sample(model, text, text, steps=1, size=(16, 32))
    assert "in pieces" not in told[-1]
    sample(tiled(model), text, text, steps=1, size=(16, 32))
    assert "in pieces (16 x 16 cells of 16 x 32)" in told[-1]
    sample(model, text, text, steps=1, size=(16, 32))
    assert "in pieces" not in told[-1]


def test_a_conditioning_with_an_area_is_told(unet, clip, told):
    model = RegionalAttention.execute(unet, clip, TWO).args[0]
    text = encode(clip, "photo")
    (area,) = nodes.ConditioningSetArea().append(text, 64, 128, 0, 0, 1.0)
    sample(model, [*area, *text], text, steps=1)
    assert "in pieces (16 x 8 cells of 16 x 16)" in told[-1]


def test_the_composers_log_tells_of_tiles_too(unet, clip, concepts):
    chain = (WeightedConcept(concepts["a"]), WeightedConcept(concepts["b"]))
    layout = Regions(256, 128, (Region("a <a1> <a2>", box=LEFT), Region("a <b1> <b2>", box=RIGHT)))
    model, text, log = ComposerAttention.execute(
        unet, clip, chain, layout, guidance_steps=0, reinitialise=False
    ).args
    words = encode(text, "photo")
    sample(tiled(model), words, words, steps=1, size=(16, 32))
    assert any("in pieces" in note for note in log.notes)


def test_tiles_on_a_transformer_are_told(told):
    model = tiny_dit("flux")
    drawn = [region(LEFT, text_of("flux", 1)), region(RIGHT, text_of("flux", 2))]
    regional = tiled(with_regions(model, drawn, say=told.append))
    text = conditioning_of("flux", dit_text("flux", 3))
    draw_dit(regional, "flux", text, text, size=(16, 32), steps=1)
    assert [note for note in told if "in pieces (16 x 16 cells of 16 x 32)" in note] == told != []


def test_a_node_that_samples_tile_after_tile_is_told_at_the_third(unet, clip, told):
    model = RegionalAttention.execute(unet, clip, TWO).args[0]
    text = encode(clip, "photo")

    def told_in(*contexts):
        seen = []
        for context in contexts:
            with CurrentNodeContext(*context):
                sample(model, text, text, steps=1)
            seen.append("3 times at 128 x 128" in told[-1])
        return seen

    assert told_in(("prompt", "7"), ("prompt", "7"), ("prompt", "7")) == [False, False, True]
    assert not any(told_in(*(("prompt", "7", number) for number in range(3))))
    assert not any(told_in(*((f"prompt {number}", "7") for number in range(3))))
