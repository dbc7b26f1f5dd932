"""A ControlNet's and T2I-Adapter's strength per region."""

import pytest
import torch

import nodes
from mix_of_show.mos_core.errors import RegionError
from mix_of_show.mos_core.patch.regional.control import add_controls, parse_strengths
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.sample import RegionalControl
from support.golden import relative_error
from support.sampling import encode, sample, some_picture, tiny_controlnet, tiny_t2i_adapter

LEFT, RIGHT = Box(0, 0, 0.5, 1), Box(0.5, 0, 1, 1)
SIDES = Regions(128, 128, (Region("a", box=LEFT), Region("b", weight=0.2, box=RIGHT)))
CONTROLS = [tiny_controlnet, tiny_t2i_adapter]


def controlled(conditionings, net, strength=1.0, picture=None):
    return nodes.ControlNetApplyAdvanced().apply_controlnet(
        *conditionings, net, some_picture() if picture is None else picture, strength, 0.0, 1.0
    )


def limited(conditionings, strengths="1", outside=0.0, regions=SIDES):
    return RegionalControl.execute(*conditionings, regions, strengths, outside).args


@pytest.fixture(scope="module")
def prompts(clip):
    return encode(clip, "photo"), encode(clip, "blurry")


@pytest.fixture(params=CONTROLS, ids=["controlnet", "t2i adapter"])
def net(request):
    return request.param()


def test_strength_1_everywhere_is_the_control_bit_for_bit(net, unet, prompts):
    pair = controlled(prompts, net)
    found = sample(unet, *limited(pair, "1", 1.0))
    assert torch.equal(found, sample(unet, *pair))
    assert not torch.equal(found, sample(unet, *prompts))


def test_strength_0_everywhere_is_no_control(net, unet, prompts):
    found = sample(unet, *limited(controlled(prompts, net), "0", 0.0))
    assert relative_error(found, sample(unet, *prompts)) <= 1e-6


def test_equal_strengths_are_the_strength_of_apply_controlnet(net, unet, prompts):
    found = sample(unet, *limited(controlled(prompts, net, 0.8), "0.5, 0.5", 0.5))
    assert relative_error(found, sample(unet, *controlled(prompts, net, 0.4))) <= 1e-6


def test_each_region_has_its_own_strength_on_every_feature_map(net, unet, prompts):
    def outputs(pair):
        seen = []

        def note(apply_model, arguments):
            control = arguments["c"]["control"]  # the UNet takes its tensors out
            seen.append({name: list(tensors) for name, tensors in control.items()})
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

        model = unet.clone()
        model.set_model_unet_function_wrapper(note)
        sample(model, *pair, steps=1)
        return seen[0]

    pair = controlled(prompts, net)
    whole, parts = outputs(pair), outputs(limited(pair, "1, 0.25"))
    compared = 0
    for name, tensors in whole.items():
        for x, y in zip(tensors, parts[name], strict=True):
            if x is not None and x.shape[-1] > 1:
                half = x.shape[-1] // 2
                assert torch.equal(y[..., :half], x[..., :half])
                assert torch.equal(y[..., half:], x[..., half:] * 0.25)
                compared += 1
    assert compared >= 4


def test_controls_before_it_keep_their_strength(unet, prompts):
    first, second = tiny_t2i_adapter(), tiny_controlnet()
    picture = some_picture().flip(1)
    alone = controlled(prompts, first)
    found = sample(unet, *limited(controlled(alone, second, picture=picture), "0", 0.0))
    assert relative_error(found, sample(unet, *alone)) <= 1e-6
    both = controlled(limited(alone, "0", 0.0), second, picture=picture)
    only_second = controlled(prompts, second, picture=picture)
    assert relative_error(sample(unet, *both), sample(unet, *only_second)) <= 1e-6


def test_the_control_that_comes_in_stays_as_it_is(net, unet, prompts):
    pair = controlled(prompts, net)
    before = [dict(entry[1]["control"].__dict__) for c in pair for entry in c]
    expected = sample(unet, *pair)
    sample(unet, *limited(pair, "0.3, 0.1"))
    assert [entry[1]["control"].__dict__.keys() for c in pair for entry in c] == [
        state.keys() for state in before
    ]
    assert torch.equal(sample(unet, *pair), expected)


def test_positive_and_negative_still_run_in_one_batch(net, prompts):
    positive, negative = limited(controlled(prompts, net))
    assert positive[0][1]["control"] is negative[0][1]["control"]


def test_strengths_are_one_number_or_one_each():
    assert parse_strengths("0.5", 3) == (0.5, 0.5, 0.5)
    assert parse_strengths(" 1, 0.5 ,0", 3) == (1.0, 0.5, 0.0)
    with pytest.raises(RegionError, match=r"2 strengths .* for 3 regions"):
        parse_strengths("1, 2", 3)
    for text in ("", "strong", "1; x", "nan"):
        with pytest.raises(RegionError):
            parse_strengths(text, 2)


def test_without_a_control_it_says_what_to_put_before_it(prompts):
    with pytest.raises(RegionError, match="Apply ControlNet before this node"):
        limited(prompts)


def test_the_sum_of_controls_skips_what_is_missing():
    one, two = torch.ones(1), torch.full((1,), 2.0)
    found = add_controls({"input": [one, None], "middle": []}, {"input": [two, two, None]})
    assert found == {"input": [torch.tensor([3.0]), two, None], "middle": []}
