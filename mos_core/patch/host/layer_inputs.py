"""The rows that enter layers while a model runs, for a `with` block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod

import comfy.utils
import torch
import torch.nn.functional as F

from ...fuse.sums import Gram


@contextmanager
def recorded_inputs(
    root: torch.nn.Module,
    paths: Mapping[str, str],
    grams: Mapping[str, Gram],
    rows: Callable[[torch.Tensor, str], torch.Tensor] = lambda x, path: x,
) -> Iterator[None]:
    """Adds what enters the layers to the Gram of their input group.

    paths: input group -> a module below `root` that has this input. rows: (an input, its module's
    path) -> what to take of it, (..., in) both; convolutions' (batch, in, h, w) become rows as
    they are, patches where the kernel is larger than one cell.
    """
    handles = []

    def recorder(gram: Gram, path: str) -> Callable:
        def record(module: torch.nn.Module, args: tuple) -> None:
            x = args[0].detach()
            kernel = getattr(module, "kernel_size", None)
            if kernel is None:
                gram.add(rows(x, path).flatten(0, -2))
            else:  # patches take as many times the room as a kernel has cells
                for few in x.split(1 if prod(kernel) > 1 else len(x)):
                    gram.add(patches(few, module).flatten(0, -2))

        return record

    try:
        for group, path in paths.items():
            module = comfy.utils.get_attr(root, path)
            handles.append(module.register_forward_pre_hook(recorder(grams[group], path)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def patches(x: torch.Tensor, convolution: torch.nn.Module) -> torch.Tensor:
    """(batch, in, h, w) -> what each cell of the convolution's output sees, (batch, cells, in *
    kernel cells)."""
    kernel = convolution.kernel_size
    if tuple(kernel) == (1, 1) and tuple(convolution.stride) == (1, 1):
        return x.movedim(1, -1).flatten(1, 2)
    how = {part: getattr(convolution, part) for part in ("dilation", "padding", "stride")}
    return F.unfold(x, kernel, **how).movedim(1, -1)
