"""At which of a sampler's model calls a step begins, and whether its latent may be changed there.

Found out, not listed: the sampler itself is run with a stand-in for the model on a tiny latent,
once as it is and once with a change of the latent. So samplers of other packs are judged alike.
"""

from collections.abc import Sequence
from typing import Any

import comfy.model_sampling
import torch

from ...errors import SamplerError

CHANNELS, SIDE = 4, 4  # of the tiny latent
SHRINK = 0.5  # the stand-in for the model removes this share of whatever it sees
TRIAL = (1.0, 0.0, 10)  # sigmas from 10 to 1, ten of them
FLOW_TRIAL = (-0.02, -1.0, 10)  # from nearly 1 to 0.1: a rectified flow has no others
CHURN = 1.5  # samplers that add noise where a step begins go above its sigma, by up to 2**0.5


class StandIn:
    """What a sampler takes for the model: it notes its calls, and may change one latent."""

    def __init__(self, model_k: Any, own_functions: Sequence):
        self.inner_model = model_k.inner_model  # samplers read the noise schedule from it
        self.known = own_functions
        self.inputs: list[torch.Tensor] = []
        self.sigmas: list[float] = []
        self.step_calls: dict[int, int] = {}  # call -> step
        self.change_at: int | None = None

    def __call__(
        self, x: torch.Tensor, sigma: torch.Tensor, model_options: dict | None = None, **kwargs: Any
    ) -> torch.Tensor:
        if len(self.inputs) == self.change_at:
            x += 1.0
        self.inputs.append(x.clone())
        self.sigmas.append(float(sigma.max()))
        denoised = SHRINK * x
        for function in (model_options or {}).get("sampler_post_cfg_function", ()):
            if not any(function is known for known in self.known):  # the sampler's own
                denoised = function(
                    {
                        "denoised": denoised,
                        "uncond_denoised": denoised,
                        "cond_denoised": denoised,
                        "cond": None,
                        "uncond": None,
                        "cond_scale": 1.0,
                        "model": None,
                        "model_options": model_options,
                        "sigma": sigma,
                        "input": x,
                    }
                )
        return denoised

    def after_step(self, state: dict) -> None:
        """The sampler's callback: the step's own call of the model was the last before it."""
        self.step_calls.setdefault(len(self.inputs) - 1, int(state["i"]))


def name_of(sampler_function: Any) -> str:
    """A sampler's name as the menus have it, as far as its function tells."""
    name = getattr(sampler_function, "__name__", type(sampler_function).__name__)
    return name.removeprefix("sample_").removesuffix("_function").replace("unipc", "uni_pc")


def plan_steps(
    sampler_function: Any, model_k: Any, sigmas: torch.Tensor, extra_args: dict, options: dict
) -> dict[int, int]:
    """Number of a model call -> number of the step that it begins, from 0.

    sampler_function: as in a KSAMPLER; options: its own. Nothing but a few numbers is computed.
    Raises SamplerError where a change of the latent would not be taken on.
    """
    steps = len(sigmas) - 1
    try:
        plain = _walk(sampler_function, model_k, sigmas, extra_args, options)
        calls = {call: step for call, step in plain.step_calls.items() if step < steps}
        if sorted(calls.values()) != list(range(steps)) or not _on_schedule(calls, plain, sigmas):
            raise SamplerError(_refusal(sampler_function))
        effect = _effect(sampler_function, model_k, extra_args, options)
    except SamplerError:
        raise
    except Exception as problem:
        raise SamplerError(f"{_refusal(sampler_function)} (trying it out: {problem})") from problem
    if not effect > 0:
        raise SamplerError(_refusal(sampler_function))
    return calls


def _effect(function: Any, model_k: Any, extra_args: dict, options: dict) -> float:
    """What is left in the second step of a change of 1 in the first, on a schedule that is fine
    enough for every method."""
    sampling = getattr(model_k.inner_model.inner_model, "model_sampling", None)
    trial = FLOW_TRIAL if isinstance(sampling, comfy.model_sampling.CONST) else TRIAL
    sigmas = torch.cat([torch.logspace(*trial, base=10.0), torch.zeros(1)])
    plain = _walk(function, model_k, sigmas, extra_args, options)
    first, second = sorted(plain.step_calls)[:2]
    changed = _walk(function, model_k, sigmas, extra_args, options, first)
    return (changed.inputs[second] - plain.inputs[second]).mean().item()


def _on_schedule(calls: dict[int, int], walk: StandIn, sigmas: torch.Tensor) -> bool:
    """Whether every step begins at its sigma; samplers that choose their own do not."""
    schedule = sigmas.tolist()
    return all(
        0.999 * schedule[step] <= walk.sigmas[call] <= CHURN * schedule[step]
        for call, step in calls.items()
    )


def _walk(
    function: Any,
    model_k: Any,
    sigmas: torch.Tensor,
    extra_args: dict,
    options: dict,
    change_at: int | None = None,
) -> StandIn:
    model_options = extra_args.get("model_options", {})
    own = list(model_options.get("sampler_post_cfg_function", ()))
    stand_in = StandIn(model_k, own)
    stand_in.change_at = change_at
    arguments = {
        "model_options": {**model_options, "sampler_post_cfg_function": list(own)},
        "seed": extra_args.get("seed", 0),
    }
    cpu = sigmas.detach().float().cpu().clone()
    x = torch.full((1, CHANNELS, SIDE, SIDE), float(cpu[0]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = function(
            stand_in,
            x,
            cpu,
            extra_args=arguments,
            callback=stand_in.after_step,
            disable=True,
            **options,
        )
    stand_in.inputs.append(x)  # what comes out stands behind the last call
    return stand_in


def _refusal(function: Any) -> str:
    return (
        f"The sampler '{name_of(function)}' does not take on changes of the latent between its "
        "steps, so the guidance of Composer Attention cannot work with it. Choose another one "
        "(euler, dpmpp_2m and most others work), or set guidance_steps to 0 and switch "
        "reinitialise off"
    )
