"""Apply Concepts with its deltas beside the layers: what merging draws, but nothing is written."""

import pytest
import torch

from mix_of_show.mos_core.patch.apply import BESIDE, apply_concepts
from mix_of_show.mos_core.records import WeightedConcept
from support.lora_files import CONVOLUTIONS, OF_CONVOLUTIONS, make_file
from support.sampling import draw, encode, sample
from support.tiny_models import golden_clip, golden_unet

from .test_any_lora import COMFY_NAMES, both_parts, load, write

PROMPT = "a photo of a cat"


def everything(algorithm):
    more = make_file("kohya", algorithm, CONVOLUTIONS, COMFY_NAMES, seed=900)
    return {**both_parts("kohya", algorithm), **more}


def picture(model, clip):
    return sample(model, encode(clip, PROMPT), encode(clip, "cat"), cfg=2.0)


def assert_drawn_alike(found, expected):
    error = (found - expected).abs().max() / expected.std()
    assert error < 2e-5, error


@pytest.mark.parametrize(
    "algorithm", [a for a in OF_CONVOLUTIONS if "tucker" not in a and a != "set"]
)
def test_beside_draws_what_merged_weights_draw(algorithm, unet, clip, tmp_path):
    chain = load(write(everything(algorithm), tmp_path), 0.7)
    merged = picture(*apply_concepts(unet, clip, chain))
    beside = picture(*apply_concepts(unet, clip, chain, BESIDE))
    assert_drawn_alike(beside, merged)
    assert not torch.allclose(merged, picture(unet, clip), atol=1e-3)


def test_an_edlora_beside_draws_what_it_draws_merged(unet, clip, concepts):
    chain = (WeightedConcept(concepts["a"], 0.8), WeightedConcept(concepts["b"], 0.5))
    results = []
    for mode in ("merge", BESIDE):
        model, coder = apply_concepts(unet, clip, chain, mode)
        results.append(draw(model, encode(coder, "<a1> <a2> and <b1> <b2>")))
    assert_drawn_alike(*results)


def test_what_cannot_stand_beside_is_merged(unet, clip, tmp_path):
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_norm1"
    norm = {f"{name}.w_norm": torch.full((32,), 0.3), f"{name}.b_norm": torch.full((32,), 0.1)}
    chain = load(write({**everything("LoRA"), **norm}, tmp_path))
    merged = picture(*apply_concepts(unet, clip, chain))
    model, coder = apply_concepts(unet, clip, chain, BESIDE)
    assert set(model.patches) == {
        f"diffusion_model.middle_block.1.transformer_blocks.0.norm1.{end}"
        for end in ("weight", "bias")
    }
    assert_drawn_alike(picture(model, coder), merged)


def test_strength_zero_beside_is_the_base_model(unet, clip, tmp_path):
    chain = load(write(everything("LoRA"), tmp_path), 0.0)
    model, coder = apply_concepts(unet, clip, chain, BESIDE)
    assert torch.equal(picture(model, coder), picture(unet, clip))


def test_nothing_stays_on_the_modules_even_after_an_error(unet, clip, tmp_path):
    chain = load(write(everything("LoRA"), tmp_path))
    model, coder = apply_concepts(unet, clip, chain, BESIDE)
    before = picture(unet, clip)

    def fail(*args):
        raise RuntimeError("stopped in the middle")

    handle = unet.model.diffusion_model.out.register_forward_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="in the middle"):
            picture(model, coder)
    finally:
        handle.remove()
    for root in (unet.model, clip.cond_stage_model):
        assert not any(module._forward_hooks for module in root.modules())
    assert torch.equal(picture(unet, clip), before)


def test_a_later_lora_loader_goes_on_top(unet, clip, tmp_path):
    from .test_any_lora import stock

    path = write(everything("LoRA"), tmp_path)
    once = apply_concepts(unet, clip, load(path, 0.5), BESIDE)
    twice = picture(*stock(*once, path, 0.5))
    assert_drawn_alike(twice, picture(*apply_concepts(unet, clip, load(path))))


def test_on_half_precision_weights_beside_is_closer_to_full_precision(tmp_path):
    small = {name: t * 0.02 if "up" in name else t for name, t in everything("LoRA").items()}
    chain = load(write(small, tmp_path))
    unet, clip = golden_unet(dtype=torch.bfloat16, manual_cast=torch.float32), golden_clip()
    exact = golden_unet()
    stored = {k: w.float() for k, w in unet.model.diffusion_model.state_dict().items()}
    exact.model.diffusion_model.load_state_dict(stored)
    expected = picture(*apply_concepts(exact, clip, chain))
    errors = {
        mode: (picture(*apply_concepts(unet, clip, chain, mode)) - expected).abs().max().item()
        for mode in ("merge", BESIDE)
    }
    assert errors[BESIDE] < 0.05 * errors["merge"]
