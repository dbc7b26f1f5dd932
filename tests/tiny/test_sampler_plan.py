"""Where the steps of a sampler begin, and which samplers take on a change of the latent."""

import types

import comfy.samplers
import pytest
import torch

from mix_of_show.mos_core.errors import SamplerError
from mix_of_show.mos_core.patch.host.sampler_plan import name_of, plan_steps

REFUSED = {"dpm_fast", "dpm_adaptive", "uni_pc", "uni_pc_bh2"}
TWICE = ("heun", "dpm_2", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "seeds_2")


@pytest.fixture(scope="module")
def model_k(unet):
    """As far as samplers look into it: the guider with its model."""
    guider = types.SimpleNamespace(model_patcher=unet, inner_model=unet.model)
    return types.SimpleNamespace(inner_model=guider)


def plan(name, unet, model_k, steps=6, **extra):
    sigmas = comfy.samplers.calculate_sigmas(unet.model.model_sampling, "normal", steps)
    sampler = comfy.samplers.sampler_object(name)
    arguments = {"model_options": {}, "seed": 3, **extra}
    return plan_steps(sampler.sampler_function, model_k, sigmas, arguments, sampler.extra_options)


@pytest.mark.parametrize("name", [n for n in comfy.samplers.SAMPLER_NAMES if n not in REFUSED])
def test_every_step_of_a_stock_sampler_begins_once(name, unet, model_k):
    calls = plan(name, unet, model_k)
    assert list(calls.values()) == list(range(6))
    assert list(calls) == sorted(calls)
    assert calls[0] == 0


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_sampler_that_does_not_take_on_changes_is_refused_by_name(name, unet, model_k):
    with pytest.raises(SamplerError, match=f"'{name}' does not take on changes"):
        plan(name, unet, model_k)


@pytest.mark.parametrize("name", TWICE)
def test_the_second_call_of_a_step_is_no_step(name, unet, model_k):
    assert list(plan(name, unet, model_k)) == [0, 2, 4, 6, 8, 10]


def test_one_step_is_enough(unet, model_k):
    assert plan("euler", unet, model_k, steps=1) == {0: 0}


def test_the_random_numbers_of_the_process_stay_where_they_were(unet, model_k):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    plan("euler_ancestral", unet, model_k)
    assert torch.equal(torch.rand(3), expected)


def test_functions_of_other_packs_are_not_called(unet, model_k):
    def others(arguments):
        raise AssertionError("called")

    options = {"sampler_post_cfg_function": [others]}
    assert len(plan("euler_cfg_pp", unet, model_k, model_options=options)) == 6
    assert options["sampler_post_cfg_function"] == [others]


def test_a_sampler_that_fails_is_refused_with_what_it_said(unet, model_k):
    def sample_strange(*args, **kwargs):
        raise RuntimeError("no such thing")

    sigmas = torch.tensor([2.0, 1.0, 0.0])
    with pytest.raises(SamplerError, match=r"'strange' .*no such thing"):
        plan_steps(sample_strange, model_k, sigmas, {}, {})
    assert name_of(sample_strange) == "strange"
