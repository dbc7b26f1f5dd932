"""Trainable branches beside a module's own weight, `y = W x + up (down x)`, for a `with` block."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import comfy.utils
import torch
import torch.nn.functional as F

from ...families.unet import Architecture, comfy_text_key, comfy_unet_key
from ...records import LowRank


@contextmanager
def hooked(root: torch.nn.Module, hooks: Mapping[str, Callable], key_of) -> Iterator[None]:
    """Adds a forward hook to every module of `hooks`.

    key_of: diffusers module name -> weight key below `root`. The base weight is not touched, so
    quantised and offloaded weights train as well.
    """
    handles = []
    try:
        for name, hook in hooks.items():
            module = comfy.utils.get_attr(root, key_of(name).removesuffix(".weight"))
            handles.append(module.register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def lora_branches(root: torch.nn.Module, factors: Mapping[str, LowRank], key_of):
    """Adds `up (down x)` to every module of `factors`; see hooked."""
    return hooked(root, {name: branch(pair) for name, pair in factors.items()}, key_of)


def weight_branches(root: torch.nn.Module, deltas: Mapping[str, torch.Tensor], key_of):
    """Adds `D x` to every module of `deltas`, (out, in), 1x1 convolutions too; see hooked."""
    return hooked(root, {name: weight_branch(delta) for name, delta in deltas.items()}, key_of)


def branch(pair: LowRank):
    def add(module, args, output):
        x = args[0]
        down, up = pair.down.to(x.dtype), pair.up.to(output.dtype)
        if pair.down.ndim == 4:
            return output + F.conv2d(F.conv2d(x, down).to(up), up)
        # One operation on flat rows: its gradient is made contiguous once for both branches.
        rows = F.linear(x, down).to(up).flatten(0, -2)
        return torch.addmm(output.flatten(0, -2), rows, up.T).view(output.shape)

    return add


def weight_branch(delta: torch.Tensor):
    def add(module, args, output):
        x, matrix = args[0], delta.to(args[0].dtype)
        if x.ndim == 4:
            return output + F.conv2d(x, matrix[:, :, None, None])
        return output + F.linear(x, matrix)

    return add


# --- which modules there are to train --------------------------------------------------------


def unet_module_shapes(unet_root, architecture: Architecture, layers: str) -> dict[str, tuple]:
    """diffusers module name -> weight shape, for "attention" or "all linear" layers, in order."""
    rest = ["attn1.to_q", "attn1.to_k", "attn1.to_v", "attn1.to_out.0"]
    rest += [name.replace("attn1", "attn2") for name in rest]
    if layers == "all linear":
        rest += ["ff.net.0.proj", "ff.net.2"]
    names = []
    for layer in architecture.layers:
        block = f"{layer.diffusers}.transformer_blocks.{layer.depth}"
        names += [f"{block}.{r}" for r in rest]
        if layers == "all linear" and layer.depth == 0:
            names += [f"{layer.diffusers}.proj_in", f"{layer.diffusers}.proj_out"]
    return {n: shape_of(unet_root, comfy_unet_key(n, architecture)) for n in names}


def text_module_shapes(text_root, layers: str) -> dict[str, tuple]:
    """The same for the text encoder."""
    rest = [f"self_attn.{p}_proj" for p in ("q", "k", "v", "out")]
    if layers == "all linear":
        rest += ["mlp.fc1", "mlp.fc2"]
    count = text_root.clip_l.num_layers
    names = [f"text_model.encoder.layers.{i}.{r}" for i in range(count) for r in rest]
    return {n: shape_of(text_root, comfy_text_key(n)) for n in names}


def shape_of(root, key: str | None) -> tuple[int, ...]:
    """(out, in) or (out, in, 1, 1), from the module's own record of its size."""
    assert key is not None  # the names come from our own table
    module = comfy.utils.get_attr(root, key.removesuffix(".weight"))
    if hasattr(module, "out_features"):
        return module.out_features, module.in_features
    return module.out_channels, module.in_channels, 1, 1
