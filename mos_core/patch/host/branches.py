"""Trainable branches beside a module's own weight, `y = W x + up (down x)`, for a `with` block.

A convolution's `down` has its kernel, stride and padding, its `up` looks at single cells (LoCon).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import comfy.utils
import torch
import torch.nn.functional as F

from ...deltas import LowRank
from ...records import Site


@contextmanager
def hooked(root: torch.nn.Module, hooks: Iterable[tuple[str, Callable]]) -> Iterator[None]:
    """Adds forward hooks: (path of a module below `root`, hook) each.

    The base weight is not touched, so quantised and offloaded weights train as well.
    """
    handles = []
    try:
        for path, hook in hooks:
            module = comfy.utils.get_attr(root, path)
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def lora_branches(
    root: torch.nn.Module, factors: Mapping[Site, LowRank]
) -> AbstractContextManager[None]:
    """Adds `up (down x)` to every site of `factors`; see hooked."""
    return hooked(root, [(site.path, branch(pair, site.part)) for site, pair in factors.items()])


def weight_branches(
    root: torch.nn.Module, deltas: Mapping[Site, torch.Tensor]
) -> AbstractContextManager[None]:
    """Adds `D x` to every site of `deltas`, (out, in), convolutions too; see hooked."""
    return hooked(root, [(site.path, weight_branch(d, site.part)) for site, d in deltas.items()])


def branch(pair: LowRank, part: tuple[int, int] | None = None) -> Callable:
    """part: the output rows that it is added to, None for all."""

    def add(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x = args[0]
        down, up = pair.down.to(x), pair.up.to(output)  # a text encoder may stay on the CPU
        if pair.down.ndim == 4:
            how = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
            return output + F.conv2d(F.conv2d(x, down, **how).to(up), up)
        rows = F.linear(x, down).to(up)
        if part is not None:
            return added_to_part(output, F.linear(rows, up), part)
        # One operation on flat rows: its gradient is made contiguous once for both branches.
        return torch.addmm(output.flatten(0, -2), rows.flatten(0, -2), up.T).view(output.shape)

    return add


def weight_branch(delta: torch.Tensor, part: tuple[int, int] | None = None) -> Callable:
    """part: as for branch."""

    def add(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        x, matrix = args[0], delta.to(args[0])
        if hasattr(module, "kernel_size"):
            how = {name: getattr(module, name) for name in ("stride", "padding", "dilation")}
            return output + F.conv2d(x, matrix.unflatten(1, (-1, *module.kernel_size)), **how)
        rows = F.linear(x, matrix)
        return output + rows if part is None else added_to_part(output, rows, part)

    return add


def added_to_part(output: torch.Tensor, rows: torch.Tensor, part: tuple[int, int]) -> torch.Tensor:
    """output (..., out) with rows (..., length) added from `start` on; part: (start, length)."""
    start, length = part
    return output + F.pad(rows, (start, output.shape[-1] - start - length))
