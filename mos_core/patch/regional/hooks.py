"""Deltas of "full" injection beside the linear layers, for the time of one UNet call.

Forward hooks on the live modules: they see quantised, offloaded and patched layers alike, and are
gone when the call ends, however it ends.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.utils
import torch

from ...compose.injection import inject
from ...records import Site
from .map_hooks import watch_maps
from .run import PREFIX, Deltas, Grid

Grids = dict[int, Grid]  # cells of a feature map -> its rows and columns


@contextmanager
def injected(unet: torch.nn.Module, deltas: Deltas, transformers: list[str]) -> Iterator[None]:
    """transformers: paths of the spatial transformers below the UNet, which tell the feature maps.
    Without "full" injection there is nothing to do."""
    grids: Grids = {}
    sites = deltas.injection.elsewhere
    handles = []
    try:
        if sites:
            handles += watch_grids(unet, transformers, grids)
        handles += watch_maps(unet, deltas)
        for site in sites:
            module = comfy.utils.get_attr(unet, site.path.removeprefix(PREFIX))
            handles.append(module.register_forward_hook(add_delta(deltas, site, grids)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def watch_grids(unet: torch.nn.Module, transformers: list[str], grids: Grids) -> list:
    """Notes the feature map of every spatial transformer."""

    def note(module, args):
        rows, columns = args[0].shape[-2:]
        grids[rows * columns] = (rows, columns)

    return [
        comfy.utils.get_attr(unet, name).register_forward_pre_hook(note) for name in transformers
    ]


def add_delta(deltas: Deltas, site: Site, grids: Grids) -> Callable:
    """A forward hook of a linear layer or 1x1 convolution."""

    def hook(module, args, output):
        x = args[0]
        if x.ndim == 2:
            return output  # one row per picture: see map_hooks
        picture = x.ndim == 4  # a 1x1 convolution: (batch, channels, rows, columns)
        tokens, out = (t.flatten(2).transpose(1, 2) if picture else t for t in (x, output))
        grid = grids.get(tokens.shape[1])
        if grid is None:
            return output  # another pack has merged or cut the tokens: they are no cells
        for bundle in deltas.bundles(site, x.device, x.dtype):
            gates = deltas.gates(bundle, grid, x.device, x.dtype)
            if gates is not None:
                out = inject(out, tokens, bundle, gates, not torch.is_grad_enabled())
        return out.transpose(1, 2).unflatten(2, x.shape[-2:]) if picture else out

    return hook
