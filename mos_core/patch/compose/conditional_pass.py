"""One forward pass of the positive conditioning alone, differentiable with respect to the latent.

Everything else of the sampling stays as it is: the caller's options, conditionings and weights are
only aliased or copied, and come back also after an error.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import comfy.samplers
import torch

from ...families import family_of
from ..host.autograd import (
    Aliases,
    autograd_on,
    checkpointed,
    frozen,
    residuals_kept,
    weights_for_autograd,
)
from ..host.forward import plain_attention
from ..regional.map_recorder import KEEP, RECORDER, LastLayerDone, MapRecorder

OURS = "mix_of_show"  # beginning of the keys of this pack's own wrappers
# Wrappers of other packs may have a memory of steps (caches, counters), and this pass is no step:
# what others put on the model as attention patches acts in it, their wrappers do not.
LEFT_OUT = ("multigpu_clones", "context_handler", "model_function_wrapper")


@contextmanager
def maps_recorded(
    guider: Any,
    x: torch.Tensor,
    sigma: torch.Tensor,
    model_options: dict,
    recorder: MapRecorder,
    differentiable: bool = True,
    save_memory: bool = False,
    aliases: Aliases | None = None,
) -> Iterator[torch.Tensor | None]:
    """Runs the pass on entering; gradients may be taken inside the `with` block. Gives the latent
    to take them for, or None if no positive conditioning is active at this time.

    x: (batch, channels, ..., h, w) as the sampler holds it; sigma: (batch,). save_memory: compute
    the blocks again in the backward pass instead of keeping what they computed. aliases: of the
    weights, from earlier passes of the same sampling.
    """
    entry = active_positive(guider, float(sigma.max()))
    if entry is None:
        yield None
        return
    model = guider.inner_model
    unet = model.diffusion_model
    with ExitStack() as stack:
        if differentiable:
            stack.enter_context(autograd_on())
            stack.enter_context(weights_for_autograd(unet, aliases=aliases))
            stack.enter_context(frozen(unet))
        if differentiable and family_of(model.model_config.unet_config)[0].sequence is not None:
            stack.enter_context(residuals_kept(unet))  # transformers add to them in place
        if differentiable and save_memory:
            stack.enter_context(checkpointed(unet))
        latent = x.detach().float().clone().requires_grad_(differentiable)
        options = options_for_maps(model_options, recorder, stack)
        if entry.get("control") is not None:
            options = with_skips_apart(options)
        with suppress(LastLayerDone), random_state_kept(x.device):
            comfy.samplers.calc_cond_batch(
                model, [[ready(entry)]], latent, sigma.detach().clone(), options
            )
        yield latent


@contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """What draws noise in this pass takes nothing from the sampling's own."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield


def active_positive(guider: Any, sigma: float) -> dict | None:
    """The first positive conditioning that covers the whole picture at this time, or None."""
    entries = guider.conds.get("positive")
    if entries is None:  # a guider of another kind: its first conditionings are the prompt
        entries = next(iter(guider.conds.values()), [])
    for entry in entries:
        start, end = entry.get("timestep_start"), entry.get("timestep_end")
        if start is not None and sigma > float(start):
            continue
        if end is not None and sigma < float(end):
            continue
        if entry.get("area") is None:
            return entry
    return None


def ready(entry: dict) -> dict:
    """A conditioning entry that takes part in a backward pass; the caller's stays as it is.

    Inference tensors are copied (some KB); a ControlNet runs without gradients.
    """
    ours = dict(entry)
    ours["model_conds"] = {
        name: _copied(cond) for name, cond in entry.get("model_conds", {}).items()
    }
    for name in ("area", "mask"):
        ours.pop(name, None)
    if entry.get("control") is not None:
        ours["control"] = WithoutGradients(entry["control"])
    return ours


def _copied(cond: Any) -> Any:
    """A model_cond with tensors of its own; also of a list of them (reference pictures)."""
    if torch.is_tensor(cond.cond):
        return cond._copy_with(cond.cond.clone())
    if isinstance(cond.cond, (list, tuple)) and all(map(torch.is_tensor, cond.cond)):
        return cond._copy_with([tensor.clone() for tensor in cond.cond])
    return cond


class WithoutGradients:
    """Stands in for a ControlNet or T2I-Adapter, which takes no part in a backward pass."""

    def __init__(self, control: Any):
        self.control = control

    def get_control(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: Any, *args: Any, **kwargs: Any
    ) -> Any:
        with torch.no_grad():
            return self.control.get_control(x_noisy.detach(), t, cond, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "control":
            raise AttributeError(name)
        return getattr(self.control, name)


def options_for_maps(model_options: dict, recorder: MapRecorder, keep: ExitStack) -> dict:
    """A copy of the sampling's options: with the recorder, with attention that has a backward,
    without other packs' wrappers, compilation and other devices."""
    options = dict(model_options.get("transformer_options", {}))
    options[RECORDER], options[KEEP] = recorder, keep
    options["optimized_attention_override"] = plain_attention
    options["wrappers"] = {
        kind: {key: own for key, own in wrappers.items() if str(key).startswith(OURS)}
        for kind, wrappers in options.get("wrappers", {}).items()
    }
    ours = {name: value for name, value in model_options.items() if name not in LEFT_OUT}
    return {**ours, "transformer_options": options}


def with_skips_apart(model_options: dict) -> dict:
    """A ControlNet's residuals are added in place to what the down blocks hand across to the up
    blocks; a backward pass needs it as the next down block saw it. So that one gets a copy."""
    options = model_options["transformer_options"]
    patches = dict(options.get("patches", {}))
    kind = "input_block_patch_after_skip"
    patches[kind] = [*patches.get(kind, ()), lambda h, transformer_options: h.clone()]
    return {**model_options, "transformer_options": {**options, "patches": patches}}
