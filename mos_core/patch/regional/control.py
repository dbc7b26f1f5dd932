"""Spatial conditions (ControlNet, T2I-Adapter) with a strength per region (Mix-of-Show, "regionally
controllable sampling")."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...compose.drawn import Conditioning
from ...errors import RegionError
from ...regions.region import Regions, shares

PATCHES = (1, 2, 4)  # cells of the latent along the side of a transformer's token


def parse_strengths(text: str, count: int) -> tuple[float, ...]:
    """'1' for all regions, or '1, 0.5, 0': one each. Raises RegionError."""
    words = [word for word in text.replace(";", ",").split(",") if word.strip()]
    try:
        values = [float(word) for word in words]
    except ValueError:
        raise RegionError(
            f"the strengths '{text}' are no numbers; write one for all regions, such as 1, or one "
            "each with commas between, such as 1, 0.5, 0"
        ) from None
    if not all(math.isfinite(value) for value in values):
        raise RegionError(f"the strengths '{text}' must be finite numbers")
    if len(values) == 1:
        return tuple(values * count)
    if len(values) != count:
        raise RegionError(
            f"there are {len(values)} strengths ('{text}') for {count} regions; write one for all "
            "of them, or one each in their order"
        )
    return tuple(values)


def limit_controls(
    conditionings: Sequence[Conditioning],
    regions: Regions,
    strengths: Sequence[float],
    outside: float,
) -> list[list[list]]:
    """CONDITIONINGs whose ControlNet or T2I-Adapter has a strength per region; others before it in
    the chain keep theirs. Those that come in are not changed.

    strengths: per region, on top of the control's own; outside: of what no region covers. Raises
    RegionError if no entry has a control.
    """
    field = RegionalControl(regions, strengths, outside)
    done: dict[int, object] = {}  # positive and negative share their control, and run in one batch

    def limited(entry: tuple[torch.Tensor, Mapping]) -> list:
        text, extras = entry
        control = extras.get("control")
        if control is None:
            return [text, extras]
        if id(control) not in done:
            done[id(control)] = field.on(control)
        return [text, {**extras, "control": done[id(control)]}]

    results = [[limited(entry) for entry in conditioning] for conditioning in conditionings]
    if not done:
        raise RegionError(
            "neither conditioning has a ControlNet or T2I-Adapter to give regions to; put Apply "
            "ControlNet before this node"
        )
    return results


class RegionalControl:
    """Scales what one control adds to each feature map of a UNet, or to the picture's tokens of a
    transformer, cell by cell."""

    def __init__(self, regions: Regions, strengths: Sequence[float], outside: float):
        # How strong a region's prompt is has nothing to do with its spatial condition.
        self.regions = [replace(region, weight=1.0) for region in regions.regions]
        self.strengths = strengths
        self.outside = outside
        self.fields: dict[tuple, torch.Tensor] = {}

    def on(self, control: Any) -> Any:
        """A copy of the control (a ControlBase, with the same models) that is scaled."""
        ours = copy.copy(control)
        ours.cond_hint = None  # each keeps its own state of a sampling
        get, merge = ours.get_control, ours.control_merge
        latent: tuple[int, ...] = ()

        def get_control(x_noisy: torch.Tensor, *args: Any, **kwargs: Any) -> dict | None:
            nonlocal latent
            latent = tuple(x_noisy.shape[-2:])
            return get(x_noisy, *args, **kwargs)

        def control_merge(outputs: dict, before: dict | None, *args: Any, **kwargs: Any) -> dict:
            own = self.scale(merge(outputs, None, *args, **kwargs), latent)
            return own if before is None else add_controls(own, before)

        ours.get_control, ours.control_merge = get_control, control_merge
        return ours

    def scale(self, outputs: dict, latent: tuple[int, ...]) -> dict:
        """outputs: 'input', 'middle', 'output' -> tensors (batch, channels, rows, columns), or
        (batch, tokens, width) of a transformer. latent: its rows and columns."""
        done: dict[int, torch.Tensor] = {}  # a tensor may stand in several places

        def scaled(x: torch.Tensor | None) -> torch.Tensor | None:
            if x is None:
                return None
            if id(x) not in done:
                on_tokens = x.ndim == 3
                grid = grid_of_tokens(x.shape[1], latent) if on_tokens else tuple(x.shape[-2:])
                field = self.field(grid, x.device, x.dtype)
                done[id(x)] = x * (field.reshape(-1, 1) if on_tokens else field)
            return done[id(x)]

        return {name: [scaled(x) for x in tensors] for name, tensors in outputs.items()}

    def field(self, grid: tuple[int, int], device: Any, dtype: torch.dtype) -> torch.Tensor:
        """(rows, columns): the strength on each cell of a feature map."""
        key = (*grid, device, dtype)
        if key not in self.fields:
            part = shares(self.regions, *grid)
            strengths = torch.tensor([*self.strengths])[:, None, None]
            field = (part * strengths).sum(0) + (1 - part.sum(0)) * self.outside
            self.fields[key] = field.to(device, dtype)
        return self.fields[key]


def grid_of_tokens(tokens: int, latent: tuple[int, ...]) -> tuple[int, int]:
    """(rows, columns) of a transformer's picture tokens, squares of 1, 2 or 4 cells of the latent
    (rows, columns), filled up at its border. Raises RegionError if they are no such grid."""
    for side in PATCHES if len(latent) == 2 else ():
        rows, columns = (-(-cells // side) for cells in latent)
        if rows * columns == tokens:
            return rows, columns
    raise RegionError(
        f"this ControlNet hands on {tokens} tokens for a latent of {' x '.join(map(str, latent))} "
        "cells, so where they lie in the picture is not known; use it without Region Strengths for "
        "Control"
    )


def add_controls(own: dict, before: dict) -> dict:
    """The sum of two controls' outputs; None stands for nothing."""
    total = {}
    for name in {**own, **before}:
        pair = [list(tensors.get(name, ())) for tensors in (own, before)]
        length = max(map(len, pair))
        a, b = (tensors + [None] * (length - len(tensors)) for tensors in pair)
        total[name] = [
            y if x is None else x if y is None else x + y for x, y in zip(a, b, strict=True)
        ]
    return total
