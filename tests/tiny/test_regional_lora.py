"""An ordinary LoRA in a region: over everything it is Load LoRA, outside it is nothing."""

import re

import comfy.utils
import pytest
import torch

from mix_of_show.mos_core.compose.assign import assign_concepts
from mix_of_show.mos_core.compose.injection import Injection
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.compose.composer import (
    ComposerSettings,
    apply_composer,
    draw_regions,
)
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.patch.regional.hooks import injected, transformers_of
from mix_of_show.mos_core.patch.regional.missed import Missed
from mix_of_show.mos_core.patch.regional.run import Deltas
from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from support.lora_files import CONVOLUTIONS, OF_CONVOLUTIONS, UNET, make_file, random
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


@pytest.mark.parametrize("algorithm", ["LoCon with tucker", "LoHa with tucker"])
def test_so_it_is_of_convolutions_with_tucker_cores(algorithm, unet, clip, tmp_path):
    path = write(make_file("kohya", algorithm, CONVOLUTIONS, COMFY_NAMES), tmp_path)
    text = encode(clip, PROMPT)
    expected = sample(stock(unet, clip, path, 0.7)[0], text, text, cfg=2.0)
    model, *_ = compose(unet, clip, load(path, 0.7), whole())
    neutral = encode(clip, "something else")
    assert relative(sample(model, neutral, neutral, cfg=2.0), expected) < 1e-5
    assert relative(sample(unet, text, text, cfg=2.0), expected) > 1e-4


def layers_with(unet, drawn) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Module -> what it gives plain and with the drawn regions' deltas, in a pass of the UNet."""
    layers = family_of(unet.model.model_config.unet_config)[1]
    cross = [f"diffusion_model.{layer.path}.attn2" for layer in layers]
    deltas = Deltas(Injection("full", drawn, cross))
    root, seen = unet.model.diffusion_model, {}
    sites = (*deltas.injection.elsewhere, *deltas.injection.maps)
    paths = [site.path.removeprefix("diffusion_model.") for site in sites]

    def note(path):
        def hook(module, args, output):
            if path not in seen:
                seen[path] = module.forward(args[0]), output.clone()

        return hook

    x, text = random(1, 4, 16, 16, scale=1.0), random(1, 77, 32, scale=1.0)
    with injected(root, deltas, transformers_of(layers), Missed(16), {}):
        handles = [
            comfy.utils.get_attr(root, path).register_forward_hook(note(path)) for path in paths
        ]
        root(x, torch.tensor([500.0]), context=text, transformer_options={})
    for handle in handles:
        handle.remove()
    return seen


def halves(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(channels, rows, columns / 2) twice, of a feature map or of its cells in a row."""
    if output.ndim == 3:
        side = round(output.shape[1] ** 0.5)
        output = output.transpose(1, 2).unflatten(2, (side, side))
    return output[0].chunk(2, -1)


@pytest.mark.parametrize("algorithm", [name for name in OF_CONVOLUTIONS if "tucker" not in name])
def test_outside_its_region_a_delta_is_exactly_zero(algorithm, unet, clip, tmp_path):
    chain = load(write(everything(algorithm), tmp_path))
    regions = Regions(128, 128, (Region(PROMPT, box=LEFT, concept="lora"),))
    seen = layers_with(unet, draw_regions(unet, clip, regions, chain, (0,)))
    modules = [COMFY_NAMES[m] for m in (*CONVOLUTIONS, *UNET) if "attn2" not in m]
    assert set(modules) <= set(seen)
    for module in modules:
        (inside, outside), (changed, same) = map(halves, seen[module])
        assert torch.equal(same, outside), module
        assert (changed != inside).any(0).all(), module


def test_two_loaders_of_one_file_act_in_two_regions_by_their_own_strengths(unet, clip, tmp_path):
    path = write(everything("LoKr"), tmp_path)
    chain = tuple(
        WeightedConcept(read_any(path, name=name), strength, strength)
        for name, strength in (("one", 0.7), ("two", -0.2))
    )
    right = Box(0.5, 0, 1, 1)
    regions = Regions(
        128, 128, (Region("x", box=LEFT, concept="one"), Region("y", box=right, concept="two"))
    )
    both = layers_with(unet, draw_regions(unet, clip, regions, chain, (0, 1)))
    module = COMFY_NAMES["down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0"]
    plain, changed = (torch.cat(halves(output), -1) for output in both[module])
    whole_map = Regions(128, 128, (Region("x", box=WHOLE, concept="one"),))
    full = layers_with(unet, draw_regions(unet, clip, whole_map, load(path, 1.0), (0,)))
    base, added = (torch.cat(halves(output), -1) for output in full[module])
    torch.testing.assert_close(plain, base)  # the first layer that is changed sees the same
    columns = torch.tensor([0.7, -0.2]).repeat_interleave(plain.shape[-1] // 2)
    torch.testing.assert_close(changed - plain, columns * (added - base), rtol=1e-4, atol=1e-5)


def test_an_edlora_and_an_ordinary_lora_each_act_in_their_own_region(
    unet, clip, concepts, tmp_path
):
    query = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"  # the first that changes
    path = write(make_file("kohya", "LoKr", {query: (32, 32)}, COMFY_NAMES), tmp_path)
    lora = read_any(path, "blue robot", "Robbie")
    chain = WeightedConcept(concepts["a"], 0.8), WeightedConcept(lora, 0.5)
    left, right = Region("<a1> <a2>", box=LEFT), Region("a blue robot", box=Box(0.5, 0, 1, 1))
    assert assign_concepts(Regions(128, 128, (left, right)), chain) == ((0, 1), ())

    def added(assigned, *regions):
        drawn = draw_regions(unet, clip, Regions(128, 128, regions), chain, assigned)
        plain, changed = layers_with(unet, drawn)[COMFY_NAMES[query]]
        return [
            after - before for before, after in zip(*map(halves, (plain, changed)), strict=True)
        ]

    both = added((0, 1), left, right)
    alone = [added((n,), Region("x", box=WHOLE)) for n in (0, 1)]
    for side in (0, 1):
        torch.testing.assert_close(both[side], alone[side][side], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(alone[0][side], alone[1][side], atol=1e-3)


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


def fusion_report(unet, clip, file, tmp_path):
    chain = load(write(file, tmp_path))
    settings = FuseSettings(steps=1, width=128, height=128, solver="sum")
    return fuse_concepts(unet, clip, chain, settings, lambda *at: None)


def test_what_fusion_leaves_out_is_named_in_its_report(unet, clip, tmp_path):
    norm = "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1"
    odd = {f"{norm}.w_norm": random(32), f"{norm}.b_norm": random(32)}
    fused, report = fusion_report(unet, clip, {**everything("LoRA"), **odd}, tmp_path)
    assert "convolutions" not in report
    assert f"not fused of 'lora': 1, first {norm} (it changes a norm or another param" in report
    blocks = {f"diffusion_model.{COMFY_NAMES[name]}" for name in (*TIME, *CONVOLUTIONS)}
    assert {*UNET, *blocks} == set(fused.unet)


def test_a_lora_that_changes_biases_is_fused_without_them_and_says_so(unet, clip, tmp_path):
    file = everything("LoRA and bias")
    fused, report = fusion_report(unet, clip, file, tmp_path)
    assert re.search(r"not fused of 'lora': \d+, first \S+\.bias \(a bias, which a solved", report)
    none = {name: tensor for name, tensor in file.items() if not name.endswith(".diff_b")}
    plain, _ = fusion_report(unet, clip, none, tmp_path)
    assert fused.unet.keys() == plain.unet.keys()
    assert all(torch.equal(fused.unet[name], plain.unet[name]) for name in plain.unet)
