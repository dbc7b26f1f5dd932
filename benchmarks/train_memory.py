"""Bytes that a training step of full-size SD1.5 keeps for its backward pass: counted, not timed.

scripts/bench train_memory [--size 512] [--batch 1]

The UNet runs on PyTorch's meta device (shapes without data), so this needs neither memory nor time;
what autograd saves is counted once per storage. Weights are not counted: they are there anyway.
"""

import argparse
import json
from contextlib import contextmanager, nullcontext
from functools import partial

import comfy.supported_models
import torch
from _models import SD15_UNET, random_clip

from mix_of_show.mos_core.families.unet import SD15, comfy_text_key, comfy_unet_key
from mix_of_show.mos_core.patch.host.autograd import (
    CHECKPOINTED,
    checkpointed,
    frozen,
    residuals_kept,
)
from mix_of_show.mos_core.patch.host.branches import (
    lora_branches,
    text_module_shapes,
    unet_module_shapes,
)
from mix_of_show.mos_core.patch.host.forward import DTYPES, plain_attention
from mix_of_show.mos_core.records import LowRank

MIB = 2**20


def meta_model(dtype: torch.dtype):
    config = comfy.supported_models.SD15(SD15_UNET)
    config.set_inference_dtype(dtype, None)
    with torch.device("meta"):
        model = config.get_model({}, "", device="meta")
    return model.to(dtype).requires_grad_(False)


class Saved:
    """Counts what autograd saves, once per storage; weights are left out."""

    def __init__(self, module: torch.nn.Module):
        self.weights = {w.untyped_storage()._cdata for w in module.parameters()}
        self.storages: dict[int, int] = {}
        self.alive: list[torch.Tensor] = []  # so that no address is used twice

    def keep(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.storages[storage._cdata] = storage.nbytes()
            self.alive.append(tensor)
        return tensor

    @contextmanager
    def hooks(self, module: torch.nn.Module, checkpoint: bool):
        """Counts what is saved inside the `with` block, inputs of checkpointed blocks included."""

        def keep_inputs(part, args, kwargs):
            for value in (*args, *kwargs.values()):
                if isinstance(value, torch.Tensor):
                    self.keep(value)

        parts = [m for m in module.modules() if type(m).__name__ in CHECKPOINTED and checkpoint]
        handles = [m.register_forward_pre_hook(keep_inputs, with_kwargs=True) for m in parts]
        with (
            torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor),
            checkpointed(module) if checkpoint else nullcontext(),
        ):
            yield
        for handle in handles:
            handle.remove()

    @property
    def bytes(self) -> int:
        return sum(self.storages.values())


def rank_4(shapes: dict, **options) -> dict[str, LowRank]:
    return {
        name: LowRank(
            torch.zeros(4, shape[1], **options, requires_grad=True),
            torch.zeros(shape[0], 4, **options, requires_grad=True),
        )
        for name, shape in shapes.items()
    }


def saved_by_text(clip, checkpoint: bool) -> int:
    """Bytes saved by encoding one caption for 16 layers, with rank-4 LoRA on all attention."""
    text = clip.cond_stage_model
    chunk = [49406, *[49407] * 76]
    saved = Saved(text)
    with (
        frozen(text),
        residuals_kept(text),
        lora_branches(text, rank_4(text_module_shapes(text, "attention")), comfy_text_key),
        saved.hooks(text, checkpoint),
    ):
        text.clip_l([[torch.randn(768, requires_grad=True), *chunk[1:]] for _ in range(16)])
    return saved.bytes


def saved_by_unet(model, dtype: torch.dtype, batch: int, size: int, checkpoint: bool) -> int:
    """Bytes saved by one forward pass of the UNet, with rank-4 LoRA on all attention layers."""
    saved = Saved(model)
    meta = {"device": "meta", "dtype": dtype}
    factors = rank_4(unet_module_shapes(model, SD15, "attention"), **meta)
    unet = model.diffusion_model
    key_of = partial(comfy_unet_key, architecture=SD15)
    with (
        lora_branches(model, factors, key_of),
        saved.hooks(unet, checkpoint),
    ):
        unet(
            torch.empty(batch, 4, size // 8, size // 8, **meta),
            torch.empty(batch, device="meta"),
            context=torch.empty(batch, 77, 768, **meta, requires_grad=True),
            transformer_options={"optimized_attention_override": plain_attention},
        )
    return saved.bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    args = parser.parse_args()
    result: dict = {"benchmark": "train_memory", **vars(args)}
    with torch.inference_mode(False), torch.enable_grad():
        for name in ("fp16", "fp32"):
            model = meta_model(DTYPES[name])
            weights = sum(w.numel() * w.element_size() for w in model.parameters())
            result[f"{name}_unet_weights_mib"] = round(weights / MIB)
            for checkpoint in (False, True):
                saved = saved_by_unet(model, DTYPES[name], args.batch, args.size, checkpoint)
                label = "checkpointed" if checkpoint else "plain"
                result[f"{name}_{label}_mib"] = round(saved / MIB)
        clip = random_clip(torch.float32)
        for checkpoint in (False, True):
            label = "checkpointed" if checkpoint else "plain"
            result[f"fp32_text_{label}_mib"] = round(saved_by_text(clip, checkpoint) / MIB)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
