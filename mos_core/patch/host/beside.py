"""Deltas beside the layers instead of in their weights: `y = W x + delta x`.

More exact than merging on weights of low precision, whose rounding swallows most of a delta, and
no weight is written. Forward hooks that live for one call of the model: they see quantised,
offloaded and patched layers alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import comfy.patcher_extension
import comfy.utils
import torch

from ...deltas import Delta
from ...records import Site

KEY = "mix_of_show_beside"
MODEL = "diffusion_model."
WrappersMP = comfy.patcher_extension.WrappersMP
Deltas = Mapping[Site, Delta]


class Beside:
    """Deltas of several concepts by site, kept on the device and in the dtype of the last call."""

    def __init__(self, deltas: tuple[Deltas, ...]):
        self.sites: dict[Site, list[Delta]] = {}
        for concept in deltas:
            for site, delta in concept.items():
                self.sites.setdefault(site, []).append(delta)
        self.there: dict[Site, tuple[Delta, ...]] = {}
        self.kind: tuple | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Beside:
        return self  # immutable but for what it keeps

    @contextmanager
    def hooked(self, root: torch.nn.Module, below: str) -> Iterator[None]:
        """For a `with` block. below: what the sites' paths begin with, up to `root`."""
        handles = []
        try:
            for site in self.sites:
                module = comfy.utils.get_attr(root, site.path.removeprefix(below))
                handles.append(module.register_forward_hook(self._adder(site)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _adder(self, site: Site) -> Callable:
        def add(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
            x = args[0]
            for delta in self._on(site, x):
                added = _applied(delta, module, x).to(output.dtype)
                if site.part is None:
                    output = output + added
                else:
                    output = output.clone()
                    output.narrow(-1, *site.part).add_(added)
            return output

        return add

    def _on(self, site: Site, x: torch.Tensor) -> tuple[Delta, ...]:
        kind = x.device, x.dtype
        if kind != self.kind:
            self.there, self.kind = {}, kind
        if site not in self.there:
            with torch.inference_mode(False), torch.no_grad():  # gradients may pass them later
                self.there[site] = tuple(delta.to(*kind) for delta in self.sites[site])
        return self.there[site]


def _applied(delta: Delta, module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """x (..., in), or (batch, in, rows, columns) for a convolution."""
    if not hasattr(module, "kernel_size"):
        return delta.on_rows(x)
    if hasattr(delta, "on_map"):
        return delta.on_map(x, module)
    return delta.on_rows(x.movedim(1, -1)).movedim(-1, 1)  # a 1x1 convolution


def put_beside_model(patcher: Any, deltas: tuple[Deltas, ...]) -> None:
    """On a clone of ours: deltas of a MODEL (sites and convolutions alike)."""
    beside = Beside(deltas)
    if not beside.sites:
        return

    def call(executor: Any, *args: Any, **kwargs: Any) -> Any:
        with beside.hooked(executor.class_obj, MODEL):
            return executor(*args, **kwargs)

    def sample(executor: Any, *args: Any, **kwargs: Any) -> Any:
        # Under torch.compile hooks would be passed over in silence.
        try:
            with torch.compiler.set_stance("force_eager"):
                return executor(*args, **kwargs)
        finally:
            beside.there = {}

    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, call)
    patcher.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sample)
