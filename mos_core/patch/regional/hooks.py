"""Deltas of "full" injection beside the linear layers, for the time of one UNet call.

Forward hooks on the live modules: they see quantised, offloaded and patched layers alike, and are
gone when the call ends, however it ends.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import comfy.utils
import torch

from ...compose.injection import inject
from ...families.unet import comfy_unet_key


@contextmanager
def injected(call) -> Iterator[None]:
    """call: a RegionalPass. Without "full" injection there is nothing to do."""
    injection = call.run.injection
    modules = injection.elsewhere if injection is not None else {}
    handles = []
    try:
        if modules:
            handles += watch_grids(call)
        for name, factors in modules.items():
            key = comfy_unet_key(name, call.run.attention.architecture)
            assert key is not None  # checked when the concept was put on the model
            path = key.removeprefix("diffusion_model.").removesuffix(".weight")
            module = comfy.utils.get_attr(call.unet, path)
            handles.append(module.register_forward_hook(add_delta(call, name, factors)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch_grids(call) -> list:
    """Notes the feature map of every spatial transformer: token count -> (rows, columns)."""

    def note(module, args):
        rows, columns = args[0].shape[-2:]
        call.grids[rows * columns] = (rows, columns)

    names = dict.fromkeys(layer.comfy for layer in call.run.attention.architecture.layers)
    return [comfy.utils.get_attr(call.unet, name).register_forward_pre_hook(note) for name in names]


def add_delta(call, name: str, factors):
    run = call.run

    def hook(module, args, output):
        x = args[0]
        picture = x.ndim == 4  # a 1x1 convolution: (batch, channels, rows, columns)
        tokens, out = (t.flatten(2).transpose(1, 2) if picture else t for t in (x, output))
        grid = call.grids.get(tokens.shape[1])
        if grid is None:
            return output  # another pack has merged or cut the tokens: they are no cells
        for block in run.blocks(name, factors, x.device, x.dtype):
            place = run.block_place(block, grid, x.device, x.dtype)
            if place is not None:
                out = inject(out, tokens, block, place, not torch.is_grad_enabled())
        return out.transpose(1, 2).unflatten(2, x.shape[-2:]) if picture else out

    return hook
