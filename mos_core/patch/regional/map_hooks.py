"""Deltas of "full" injection that see more than single cells: convolutions, and the residual
blocks' projections of the time embedding.

A convolution's delta is computed on the whole feature map and put where the region is, so that it
sees one cell beyond the border, as the layer itself does. A block adds one row per picture, the
projected time embedding, to all cells of its map; a delta of that row is added to the region's.
"""

from collections.abc import Callable

import comfy.utils
import torch

from ...deltas.convolution import Convolution, WithBias
from ...families.stable_diffusion import TIME_ROWS, time_block_of
from ...records import Site
from .run import PREFIX, Deltas


def watch_maps(unet: torch.nn.Module, deltas: Deltas) -> list:
    """Handles of the forward hooks on `unet`; none without such deltas."""
    handles = []
    for site in deltas.injection.maps:
        module = comfy.utils.get_attr(unet, site.path.removeprefix(PREFIX))
        handles.append(module.register_forward_hook(_add_convolution(deltas, site)))
    for site in deltas.injection.elsewhere:
        if not TIME_ROWS.search(site.path):
            continue
        block = comfy.utils.get_attr(unet, time_block_of(site.path).removeprefix(PREFIX))
        rows: list = []  # of this call
        handles.append(block.emb_layers[-1].register_forward_hook(_note_rows(deltas, site, rows)))
        handles.append(block.out_layers[0].register_forward_pre_hook(_add_rows(deltas, rows)))
    return handles


def _add_convolution(deltas: Deltas, site: Site) -> Callable:
    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        for single in deltas.on_maps(site, x.device, x.dtype):
            gate = deltas.gate_map(single.concepts[0], tuple(output.shape[-2:]), x.device, x.dtype)
            if gate is not None:
                assert isinstance(single.delta, (Convolution, WithBias))
                output = output + single.delta.on_map(x, module) * gate
        return output

    return hook


def _note_rows(deltas: Deltas, site: Site, rows: list) -> Callable:
    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        singles = deltas.on_maps(site, x.device, x.dtype)
        rows[:] = [(single.concepts[0], single.delta.on_rows(x)) for single in singles]
        return output

    return hook


def _add_rows(deltas: Deltas, rows: list) -> Callable:
    def hook(module: torch.nn.Module, args: tuple) -> tuple:
        h = args[0]
        for number, row in rows:
            gate = deltas.gate_map(number, tuple(h.shape[-2:]), h.device, h.dtype)
            if gate is not None:
                h = h + row[:, :, None, None] * gate
        rows.clear()
        return (h, *args[1:])

    return hook
