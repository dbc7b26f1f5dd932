"""The rows that enter linear layers while a model runs, for a `with` block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.utils
import torch

from ...fuse.stage import input_group
from ...fuse.sums import Gram


@contextmanager
def recorded_inputs(
    root: torch.nn.Module,
    modules,
    grams: Mapping[str, Gram],
    key_of: Callable[[str], str | None],
    rows: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> Iterator[None]:
    """Adds what enters the modules to the Gram of their input group.

    key_of: diffusers module name -> weight key below `root`. rows: what to take of an input
    (batch, tokens, in); 1x1 convolutions' (batch, in, h, w) become rows as they are.
    """
    firsts = {input_group(module): module for module in reversed(list(modules))}
    handles = []

    def recorder(gram: Gram):
        def record(module, args):
            x = args[0].detach()
            x = x.movedim(1, -1) if x.ndim == 4 else rows(x)
            gram.add(x.flatten(0, -2))

        return record

    try:
        for group, name in firsts.items():
            part = comfy.utils.get_attr(root, (key_of(name) or "").removesuffix(".weight"))
            handles.append(part.register_forward_pre_hook(recorder(grams[group])))
        yield
    finally:
        for handle in handles:
            handle.remove()
