"""A ControlNet of a diffusion transformer beside regions, and its strength in each."""

import comfy.controlnet
import comfy.ldm.flux.controlnet
import comfy.ops
import pytest
import torch

import nodes
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.patch.regional.control import grid_of_tokens
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.sample import RegionalControl
from support.dit_models import FLUX, NEWER_FLUX, dit_conditioning, draw_dit, fill, tiny_dit
from support.dit_regions import (
    LEFT,
    RIGHT,
    WHOLE,
    error,
    merged,
    random_lora,
    region,
    text_of,
    with_regions,
)

SIDES = Regions(128, 128, (Region("a", box=Box(0, 0, 0.5, 1)), Region("b", box=Box(0.5, 0, 1, 1))))
SIZES = ((16, 16), (12, 18))


@pytest.fixture(scope="module")
def model():
    return tiny_dit("flux")


def control_net(seed: int = 7):
    """ComfyUI's ControlNet for Flux, its hint as many pixels as an IMAGE has, random weights."""
    config = FLUX | ({"txt_ids_dims": []} if NEWER_FLUX else {})
    net = comfy.ldm.flux.controlnet.ControlNetFlux(
        **config | {"depth": 1, "depth_single_blocks": 1},
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
    fill(net, seed)
    return comfy.controlnet.ControlNet(
        net, load_device=torch.device("cpu"), extra_conds=["y", "guidance"]
    )


def controlled(net, size, strength=1.0, positive=1, negative=2):
    generator = torch.Generator().manual_seed(5)
    picture = torch.rand(1, 8 * size[0], 8 * size[1], 3, generator=generator)
    pair = dit_conditioning("flux", positive), dit_conditioning("flux", negative)
    return nodes.ControlNetApplyAdvanced().apply_controlnet(*pair, net, picture, strength, 0.0, 1.0)


def limited(pair, strengths, outside=0.0):
    return RegionalControl.execute(*pair, SIDES, strengths, outside).args


def draw(model, pair, size):
    return draw_dit(model, "flux", *pair, size=size)


@pytest.mark.parametrize("size", SIZES)
def test_a_region_everywhere_is_load_lora_with_the_control(model, size):
    net, lora = control_net(), random_lora(model)
    drawn = (region(WHOLE, text_of("flux", 3, 4), lora),)
    found = draw(with_regions(model, drawn), controlled(net, size), size)
    expected = draw(merged(model, lora), controlled(net, size, positive=3, negative=4), size)
    # the ControlNet itself reads the picture's own prompts, beside the regions'
    silent = draw(
        merged(model, lora), (dit_conditioning("flux", 3), dit_conditioning("flux", 4)), size
    )
    assert error(expected, silent) > 1e-2
    own = draw_dit(
        merged(model, lora),
        "flux",
        *with_control_text(controlled(net, size, positive=3, negative=4), controlled(net, size)),
        size=size,
    )
    assert error(found, own) <= 1e-4


def with_control_text(pair, texts):
    """pair: CONDITIONINGs with a control, which is made to read the text of `texts`."""
    done = []
    for conditioning, told in zip(pair, texts, strict=True):
        (text, extras), (other, _) = conditioning[0], told[0]
        control = extras["control"].copy()
        get = control.get_control

        def get_control(x, t, cond, *args, get=get, other=other, **kwargs):
            known = cond["c_crossattn"]
            return get(
                x, t, {**cond, "c_crossattn": other.expand(len(known), -1, -1)}, *args, **kwargs
            )

        control.get_control = get_control
        done.append([[text, {**extras, "control": control}]])
    return done


@pytest.mark.parametrize("size", SIZES)
def test_strengths_everywhere_are_those_of_apply_controlnet(model, size):
    net = control_net()
    pair = controlled(net, size)
    plain = draw(model, pair, size)
    assert torch.equal(draw(model, limited(pair, "1", 1.0), size), plain)
    half = draw(model, limited(pair, "0.5", 0.5), size)
    assert error(half, draw(model, controlled(net, size, 0.5), size)) <= 1e-6
    none = draw(model, limited(pair, "0"), size)
    assert (
        error(none, draw(model, (dit_conditioning("flux", 1), dit_conditioning("flux", 2)), size))
        <= 1e-6
    )
    assert error(none, plain) > 1e-2


@pytest.mark.parametrize("size", SIZES)
def test_each_region_has_its_own_strength_on_its_tokens(model, size):
    seen = []

    def note(apply_model, arguments):
        control = arguments["c"]["control"]
        seen.append({name: list(tensors) for name, tensors in control.items()})
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    noting = model.clone()
    noting.set_model_unet_function_wrapper(note)
    pair = controlled(control_net(), size)
    draw(noting, pair, size)
    whole = seen[0]
    seen.clear()
    draw(noting, limited(pair, "1, 0.25"), size)
    parts = seen[0]
    rows, columns = (-(-cells // 2) for cells in size)
    left = columns // 2
    compared = 0
    for name, tensors in whole.items():
        for x, y in zip(tensors, parts[name], strict=True):
            x, y = (t.unflatten(1, (rows, columns)) for t in (x, y))
            assert x.abs().max() > 0
            assert torch.equal(y[:, :, :left], x[:, :, :left])
            right = left + columns % 2  # a column in the middle belongs to both
            assert torch.allclose(y[:, :, right:], 0.25 * x[:, :, right:])
            compared += 1
    assert compared >= 2


def test_regions_with_loras_and_their_own_control_strengths_draw_and_leave_no_trace(model):
    net, size = control_net(), (16, 16)
    drawn = (
        region(LEFT, text_of("flux", 3, 4), random_lora(model, 1)),
        region(RIGHT, text_of("flux", 5, None, 14), random_lora(model, 2)),
    )
    before = draw(model, controlled(net, size), size)
    pair = controlled(net, size)
    patched = with_regions(model, drawn)
    both = draw(patched, limited(pair, "1, 0.25"), size)
    assert error(both, draw(patched, pair, size)) > 1e-3
    assert torch.equal(draw(model, controlled(net, size), size), before)


def test_tokens_that_are_no_grid_of_the_latent_are_refused():
    assert grid_of_tokens(64, (16, 16)) == (8, 8)
    assert grid_of_tokens(72, (15, 18)) == (8, 9)
    with pytest.raises(RegionError, match="70 tokens"):
        grid_of_tokens(70, (16, 16))
