"""An ordinary LoRA in a region: over everything it is Load LoRA, outside it is nothing."""

import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.compose.injection import Injection
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.patch.compose.composer import (
    ComposerSettings,
    apply_composer,
    draw_regions,
)
from mix_of_show.mos_core.patch.fuse.layers import unfused_notes
from mix_of_show.mos_core.patch.fuse.sources import Source
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.patch.regional.hooks import injected
from mix_of_show.mos_core.patch.regional.missed import Missed
from mix_of_show.mos_core.patch.regional.run import Deltas
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.lora_files import CONVOLUTIONS, OF_CONVOLUTIONS, make_file, random
from support.sampling import encode, sample

from .test_any_lora import COMFY_NAMES, both_parts, load, stock, write

PROMPT = "a photo of a cat"
TIME = {
    "mid_block.resnets.0.time_emb_proj": (32, 128),
    "up_blocks.1.resnets.1.time_emb_proj": (32, 128),
}
UNLED = GuidanceSettings(steps=0, reinitialise=False)
UNGUIDED = ComposerSettings("full", False, UNLED)
WHOLE, LEFT = Box(0, 0, 1, 1), Box(0, 0, 0.5, 1)


def everything(algorithm):
    file = both_parts("kohya", algorithm)
    file |= make_file("kohya", algorithm, CONVOLUTIONS, COMFY_NAMES, seed=900)
    if "tucker" not in algorithm:
        file |= make_file("kohya", algorithm, TIME, COMFY_NAMES, seed=950)
    return file


def compose(unet, clip, chain, *regions):
    model, coder, _, notes = apply_composer(unet, clip, chain, Regions(128, 128, regions), UNGUIDED)
    return model, coder, notes


def relative(found, expected):
    return ((found - expected).abs().max() / expected.std()).item()


def whole(name="lora"):
    return Region(PROMPT, PROMPT, box=WHOLE, concept=name)


@pytest.mark.parametrize("strength", [0.7, -0.5])
@pytest.mark.parametrize("algorithm", [name for name in OF_CONVOLUTIONS if "tucker" not in name])
def test_one_region_over_everything_is_load_lora(algorithm, strength, unet, clip, tmp_path):
    path = write(everything(algorithm), tmp_path)
    theirs, coder = stock(unet, clip, path, strength)
    text = encode(coder, PROMPT)
    expected = sample(theirs, text, text, cfg=2.0)
    model, *_ = compose(unet, clip, load(path, strength), whole())
    neutral = encode(clip, "something else")
    found = sample(model, neutral, neutral, cfg=2.0)
    assert relative(found, expected) < 1e-5
    plain = encode(clip, PROMPT)
    assert relative(sample(unet, plain, plain, cfg=2.0), expected) > 1e-4


@pytest.mark.parametrize("algorithm", ["LoRA", "LoHa", "LoKr", "DoRA", "OFT", "LoRA and bias"])
def test_outside_its_region_a_delta_is_exactly_zero(algorithm, unet, clip, tmp_path):
    chain = load(write(everything(algorithm), tmp_path))
    regions = Regions(128, 128, (Region(PROMPT, box=LEFT, concept="lora"),))
    drawn = draw_regions(unet, clip, regions, chain, (0,))
    root = unet.model.diffusion_model
    deltas = Deltas(Injection("full", drawn))
    for module in (*CONVOLUTIONS, "mid_block.attentions.0.proj_in"):
        layer = comfy.utils.get_attr(root, COMFY_NAMES[module])
        x = random(2, 32, 8, 12, seed=3, scale=1.0)
        plain = layer(x)
        with injected(root, deltas, {}, Missed(16), {}):
            found = layer(x)
        half = plain.shape[-1] // 2
        assert torch.equal(found[..., half:], plain[..., half:]), module
        assert (found[..., :half] != plain[..., :half]).any(1).all(), module


def test_two_loras_in_two_regions_find_their_regions_by_trigger_words(unet, clip, tmp_path):
    knight = read_any(write(everything("LoRA"), tmp_path, "knight"), "shining knight")
    other = read_any(
        write(both_parts("kohya", "LoKr", seed=7), tmp_path, "other"), "robot", "Robbie"
    )
    chain = (WeightedConcept(knight), WeightedConcept(other))
    right = Box(0.5, 0, 1, 1)
    regions = Regions(
        128, 128, (Region("a Shining Knight", box=LEFT), Region("a robot, red", box=right))
    )
    assert assign_concepts(regions, chain) == ((0, 1), ())
    named = Regions(128, 128, (Region("he", box=LEFT, concept="robbie"), Region("she", box=right)))
    assert assign_concepts(named, chain)[0] == (1, None)
    model, *_ = compose(unet, clip, chain, *regions.regions)
    text = encode(clip, PROMPT)
    assert torch.isfinite(sample(model, text, text)).all()


def test_what_cannot_act_in_a_region_is_named(unet, clip, tmp_path):
    norm = "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1"
    time = {"lora_unet_time_embedding_linear_1": (128, 32)}
    file = {**everything("LoRA"), f"{norm}.w_norm": random(32), f"{norm}.b_norm": random(32)}
    for name, (out, into) in time.items():
        file[f"{name}.lora_down.weight"] = random(2, into)
        file[f"{name}.lora_up.weight"] = random(out, 2)
    *_, notes = compose(unet, clip, load(write(file, tmp_path)), whole())
    told = "\n".join(notes)
    assert norm in told
    assert "lora_unet_time_embedding_linear_1" in told or "time_embed" in told


def test_what_fusion_leaves_out_is_named(unet, clip, tmp_path):
    norm = "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1"
    file = {**everything("LoRA"), f"{norm}.w_norm": random(32), f"{norm}.b_norm": random(32)}
    bound = bind(unet, clip, load(write(file, tmp_path))[0])
    notes = unfused_notes([Source(bound, (), (), (), 0)])
    assert notes[0].startswith("not fused of 'lora': 2 convolutions larger than one cell")
    assert any(norm in note for note in notes)
