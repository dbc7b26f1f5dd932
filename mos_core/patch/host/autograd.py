"""Gradients through ComfyUI's models, whose weights are inference tensors in no-grad code.

All of it is for the time of a `with` block and leaves no trace.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from torch.utils.checkpoint import checkpoint

from ...families import FAMILIES


@contextmanager
def autograd_on() -> Iterator[None]:
    """Leaves ComfyUI's inference mode; tells newer versions to use kernels with a backward, and
    puts one in the place of those that they use all the same."""
    management = comfy.model_management
    flag = hasattr(management, "in_training")
    before = getattr(management, "in_training", None)
    if flag:
        management.in_training = True
    kernels, plain = plain_kernels()
    fast = {name: getattr(kernels, name) for name in plain}
    try:
        for name, kernel in plain.items():
            setattr(kernels, name, kernel)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        for name, kernel in fast.items():
            setattr(kernels, name, kernel)
        if flag:
            management.in_training = before


def plain_kernels() -> tuple[Any, dict[str, Any]]:
    """The module of newer versions' kernels, and those of them that models call for gradients too
    but have no backward (Anima and Cosmos: norm and rotation in one), written in PyTorch's own
    operations; (None, {}) on older versions."""
    kernels = getattr(getattr(comfy, "quant_ops", None), "ck", None)
    try:
        from comfy_kitchen.backends.eager import rope
    except ImportError:
        return None, {}
    names = ("rms_rope_split_half", "rms_rope")
    return kernels, {n: getattr(rope, n) for n in names if hasattr(rope, n) and hasattr(kernels, n)}


class Aliases:
    """Aliases of weights, each made once in the life of this object and again where a weight has
    moved. It keeps the weights' memory: it must not outlive a sampling."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """See alias."""
        known, made = self._made.get(id(tensor), (None, None))
        if known is not tensor or made is None or made.data_ptr() != tensor.data_ptr():
            made = alias(tensor)
            self._made[id(tensor)] = (tensor, made)
        return made


@contextmanager
def weights_for_autograd(
    *modules: torch.nn.Module, aliases: Aliases | None = None
) -> Iterator[None]:
    """Inference tensors may not be saved for backward: stands aliases of the same storage in.

    No byte is copied; the forward pass stays bit-identical; the originals come back at the end.
    aliases: those of earlier passes of the same sampling.
    """
    swapped = []
    aliases = aliases or Aliases()
    try:
        for module in modules:
            for part in module.modules():
                for table in (part._parameters, part._buffers):
                    for name, tensor in table.items():
                        if tensor is not None and can_alias(tensor):
                            swapped.append((table, name, tensor))
                            table[name] = aliases.of(tensor)
        yield
    finally:
        for table, name, tensor in reversed(swapped):
            table[name] = tensor


def can_alias(tensor: torch.Tensor) -> bool:
    """Plain tensors only: quantised subclasses are dequantised into normal tensors anyway."""
    return tensor.is_inference() and type(tensor) in (torch.Tensor, torch.nn.Parameter)


def alias(tensor: torch.Tensor) -> torch.Tensor:
    """A normal (not inference) tensor over the same storage; a frozen Parameter for a Parameter."""
    with torch.inference_mode(False):
        normal = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
        normal.set_(
            tensor.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
        )
        if isinstance(tensor, torch.nn.Parameter):
            normal = torch.nn.Parameter(normal, requires_grad=False)
    return normal


@contextmanager
def frozen(*modules: torch.nn.Module) -> Iterator[None]:
    """No gradient for any base weight (ComfyUI's UNet parameters ask for one by default)."""
    asking = [
        p for m in modules for p in m.parameters() if p.requires_grad and not p.is_inference()
    ]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


CHECKPOINTED = tuple(dict.fromkeys(name for family in FAMILIES for name in family.recompute))
# Blocks that add to their input in place; recomputation needs it as it was.
CHANGES_ITS_INPUT = ("CLIPLayer", "DoubleStreamBlock", "SingleStreamBlock")
STREAMS = ("img", "txt", "x")  # names of such inputs
# Attribute of a forward pre-hook on such a block that has to run before a recomputation too, which
# repeats the block's `forward` alone.
BEFORE_RECOMPUTING = "before_recomputing"


@contextmanager
def checkpointed(*modules: torch.nn.Module) -> Iterator[None]:
    """Recomputes the models' blocks in the backward pass instead of keeping what they computed."""
    with ExitStack() as stack:
        for module in modules:
            for part in module.modules():
                if type(part).__name__ in CHECKPOINTED:
                    stack.enter_context(recomputed(part))
        yield


@contextmanager
def recomputed(module: torch.nn.Module) -> Iterator[None]:
    had = module.__dict__.get("forward")
    forward = module.forward
    protect = type(module).__name__ in CHANGES_ITS_INPUT

    def run(*args: Any, **kwargs: Any) -> Any:
        # ComfyUI writes "block" and "block_index" into its option dicts as it goes on: the
        # recomputation needs them as they were.
        kept, named = copy_options(args, kwargs)
        hooks: list = []  # none the first time: the module's own call has run them

        def call() -> Any:
            again, again_named = copy_options(kept, named)
            for hook in hooks:
                hook(module, tuple(again))
            hooks[:] = [
                hook
                for hook in module._forward_pre_hooks.values()
                if getattr(hook, BEFORE_RECOMPUTING, False)
            ]
            if protect:
                again[:1] = [x.clone() for x in again[:1]]
                again_named |= {k: again_named[k].clone() for k in STREAMS if k in again_named}
            return forward(*again, **again_named)

        return checkpoint(call, use_reentrant=False)

    module.forward = run
    try:
        yield
    finally:
        if had is None:
            del module.forward
        else:
            module.forward = had


def copy_options(args: Iterable, kwargs: dict) -> tuple[list, dict]:
    """The arguments with every dict copied one level deep."""

    def copy(value: Any) -> Any:
        return dict(value) if isinstance(value, dict) else value

    return [copy(a) for a in args], {k: copy(a) for k, a in kwargs.items()}


@contextmanager
def residuals_kept(*modules: torch.nn.Module) -> Iterator[None]:
    """Lets ComfyUI's models add to their residual stream in place: each LayerNorm works on a copy.

    (The norm keeps its input for the backward pass, and `x += ...` would change it.)
    """

    def copy_input(module: torch.nn.Module, args: tuple) -> tuple:
        return (args[0].clone(), *args[1:])

    norms = [m for each in modules for m in each.modules() if isinstance(m, torch.nn.LayerNorm)]
    handles = [norm.register_forward_pre_hook(copy_input) for norm in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
