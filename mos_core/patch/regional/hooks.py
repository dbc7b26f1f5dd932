"""Deltas of "full" injection beside the layers, for the time of one UNet call.

Forward hooks on the live modules: they see quantised, offloaded and patched layers alike, and are
gone when the call ends, however it ends.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import comfy.utils
import torch

from ...compose.injection import inject
from ...families import AttentionLayer
from ...families.rows import BLOCKS
from ...records import Site
from .map_hooks import watch_maps
from .missed import CONCEPTS, Missed
from .run import PREFIX, Deltas

Maps = dict[str, tuple[int, int, int]]  # spatial transformer -> pictures, rows, columns it runs on


@contextmanager
def injected(
    unet: torch.nn.Module,
    deltas: Deltas,
    layers: Mapping[str, AttentionLayer],
    missed: Missed,
    options: Mapping,
) -> Iterator[None]:
    """layers: spatial transformer (its path below the UNet) -> its first layer. Without "full"
    injection there is nothing to do."""
    maps: Maps = {}
    sites = deltas.injection.elsewhere
    handles = []
    try:
        for name in layers if sites else ():
            module = comfy.utils.get_attr(unet, name)
            handles.append(module.register_forward_pre_hook(_note_map(name, maps)))
        handles += watch_maps(unet, deltas)
        for site in sites:
            path = site.path.removeprefix(PREFIX)
            spatial = next((name for name in layers if path.startswith(f"{name}.")), None)

            running = functools.partial(maps.get, spatial or "")
            index = layers[spatial].index if spatial else -1
            miss = functools.partial(missed.note, CONCEPTS, index, options)
            hook = add_delta(deltas, site, running, miss)
            handles.append(comfy.utils.get_attr(unet, path).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def transformers_of(layers: Iterable[AttentionLayer]) -> dict[str, AttentionLayer]:
    """Path of each spatial transformer below the UNet -> its first layer."""
    first: dict[str, AttentionLayer] = {}
    for layer in layers:
        first.setdefault(layer.path.split(BLOCKS)[0], layer)
    return first


def _note_map(name: str, maps: Maps) -> Callable:
    def note(module: torch.nn.Module, args: tuple) -> None:
        batch, _, rows, columns = args[0].shape
        maps[name] = (batch, rows, columns)

    return note


def add_delta(
    deltas: Deltas, site: Site, running: Callable[[], tuple[int, int, int] | None], miss: Callable
) -> Callable:
    """A forward hook of a linear layer or convolution. running: the pictures and the feature map
    of the spatial transformer around it; miss: called where its tokens are no cells."""
    keys = site.path.endswith(("attn1.to_k", "attn1.to_v"))  # others may put more behind the cells

    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        if x.ndim == 4:
            return on_picture(deltas, site, x, output)
        around = running()
        if x.ndim != 3 or around is None:
            return output  # one row per picture: see map_hooks
        batch, rows, columns = around
        cells = rows * columns
        if x.shape[0] != batch or x.shape[1] < cells or (x.shape[1] > cells and not keys):
            miss()
            return output
        on_cells = output if x.shape[1] == cells else output[:, :cells]
        found = on_tokens(deltas, site, (rows, columns), x[:, :cells], on_cells)
        if on_cells is output:
            return found
        return torch.cat([found, output[:, cells:]], 1)

    return hook


def on_tokens(
    deltas: Deltas, site: Site, grid: tuple[int, int], x: torch.Tensor, output: torch.Tensor
) -> torch.Tensor:
    """x: (batch, cells, in), output: (batch, cells, out), overwritten where no graph needs it."""
    for bundle in deltas.bundles(site, x.device, x.dtype):
        gates = deltas.gates(bundle, grid, x.device, x.dtype)
        if gates is not None:
            output = inject(output, x, bundle, gates, not torch.is_grad_enabled())
    return output


def on_picture(deltas: Deltas, site: Site, x: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    """x: (batch, in, rows, columns), output: (batch, out, rows, columns) of a 1x1 convolution."""
    grid = (output.shape[-2], output.shape[-1])
    tokens, out = (t.flatten(2).transpose(1, 2) for t in (x, output))
    return on_tokens(deltas, site, grid, tokens, out).transpose(1, 2).unflatten(2, grid)
