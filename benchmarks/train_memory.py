"""Bytes that a training step keeps for its backward pass at full size: counted, not timed.

scripts/bench train_memory [--family sd15] [--size 512] [--batch 1] [--rank 4]
    [--layers attention]

The UNet runs on PyTorch's meta device (shapes without data), so this needs neither memory nor time;
what autograd saves is counted once per storage. Beside it: the weights, and what AdamW keeps of the
LoRA. The working memory of single operations comes on top.
"""

import argparse
import json
from contextlib import contextmanager, nullcontext

import comfy.supported_models
import torch
from _models import SD15_UNET, random_clip

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.unet import layers_of
from mix_of_show.mos_core.patch.host.autograd import (
    CHECKPOINTED,
    checkpointed,
    frozen,
    residuals_kept,
)
from mix_of_show.mos_core.patch.host.branches import lora_branches
from mix_of_show.mos_core.patch.host.forward import DTYPES, plain_attention
from mix_of_show.mos_core.patch.train.targets import text_targets, unet_targets

MIB = 2**20
SDXL_UNET = {
    **{k: v for k, v in SD15_UNET.items() if k not in ("num_heads", "num_head_channels")},
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_middle": 10,
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "context_dim": 2048,
    "use_linear_in_transformer": True,
    "adm_in_channels": 2816,
    "num_classes": "sequential",
}
FAMILIES = {
    "sd15": (comfy.supported_models.SD15, SD15_UNET),
    "sdxl": (comfy.supported_models.SDXL, SDXL_UNET),
}


def meta_model(family: str, dtype: torch.dtype):
    kind, unet = FAMILIES[family]
    config = kind(dict(unet))
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


def factors_of(model, layers: str, rank: int) -> dict:
    """Site -> factors of that rank on all layers that are trained, float32 as in a training."""
    attention = layers_of(model.model_config.unet_config)
    return {
        target.site: LowRank(
            torch.zeros(rank, target.shape[1], device="meta", requires_grad=True),
            torch.zeros(target.shape[0], rank, device="meta", requires_grad=True),
        )
        for _, target in unet_targets(model, attention, layers)
    }


def saved_by_unet(model, dtype: torch.dtype, args, factors: dict, checkpoint: bool) -> int:
    """Bytes saved by one forward pass of the UNet, with LoRA branches."""
    saved, unet, config = Saved(model), model.diffusion_model, model.model_config.unet_config
    meta = {"device": "meta", "dtype": dtype}
    given = {}
    if config.get("adm_in_channels"):
        given["y"] = torch.empty(args.batch, config["adm_in_channels"], **meta)
    with lora_branches(model, factors), saved.hooks(unet, checkpoint):
        unet(
            torch.empty(args.batch, 4, args.size // 8, args.size // 8, **meta),
            torch.empty(args.batch, device="meta"),
            context=torch.empty(args.batch, 77, config["context_dim"], **meta, requires_grad=True),
            transformer_options={"optimized_attention_override": plain_attention},
            **given,
        )
    return saved.bytes


def saved_by_text(clip, checkpoint: bool) -> int:
    """Bytes saved by encoding one caption for SD1.5's 16 layers, with rank-4 LoRA on attention."""
    text, (family, _) = clip.cond_stage_model, family_of(SD15_UNET)
    factors = {
        target.site: LowRank(
            torch.zeros(4, target.shape[1], requires_grad=True),
            torch.zeros(target.shape[0], 4, requires_grad=True),
        )
        for _, target in text_targets(text, family, "attention")
    }
    saved = Saved(text)
    with (
        frozen(text),
        residuals_kept(text),
        lora_branches(text, factors),
        saved.hooks(text, checkpoint),
    ):
        row = [torch.randn(768, requires_grad=True), *[49407] * 76]
        text.clip_l([row for _ in range(16)])
    return saved.bytes


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", default="sd15", choices=list(FAMILIES))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--layers", default="attention", choices=["attention", "all linear"])
    args = parser.parse_args()
    result: dict = {"benchmark": "train_memory", **vars(args)}
    with torch.inference_mode(False), torch.enable_grad():
        for name in ("bf16", "fp32"):
            model = meta_model(args.family, DTYPES[name])
            family_of(model.model_config.unet_config)
            factors = factors_of(model, args.layers, args.rank)
            count = sum(p.down.numel() + p.up.numel() for p in factors.values())
            weights = sum(w.numel() * w.element_size() for w in model.parameters())
            result[f"{name}_unet_weights_mib"] = round(weights / MIB)
            # values, gradients, two moments, and the copy that a bad step is taken back from (3)
            result["lora_and_optimizer_mib"] = round(7 * 4 * count / MIB)
            for checkpoint in (False, True):
                saved = saved_by_unet(model, DTYPES[name], args, factors, checkpoint)
                label = "checkpointed" if checkpoint else "plain"
                result[f"{name}_{label}_mib"] = round(saved / MIB)
        clip = random_clip(torch.float32) if args.family == "sd15" else None
        for checkpoint in (False, True) if clip else ():
            label = "checkpointed" if checkpoint else "plain"
            result[f"fp32_text_{label}_mib"] = round(saved_by_text(clip, checkpoint) / MIB)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
