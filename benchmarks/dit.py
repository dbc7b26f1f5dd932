"""What a sampling step of a diffusion transformer costs with four and eight regions, each with a
text and a LoRA of its own, against plain sampling of the same model.

scripts/bench dit [--family z_image] [--size 1024] [--counts 4 8] [--rank 32] [--rounds 2]
    [--memory]

Real widths, random weights, one block of each kind and the token counts of `--size`, boxes that
cover the picture, isolation on. Ratios in one run; processor time on a CPU.
"""

import argparse
import json
import sys

import comfy.hooks
import comfy.model_management
import torch
from _models import random_transformer
from _random_concepts import lora_hook
from _steps import compare, peak_memory

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.records import Bound, Site
from mix_of_show.mos_core.regions.region import Box, Region

# Tokens of a prompt as the family's own text encoder makes them, and their width.
TEXTS = {"flux": (256, 4096), "z_image": (60, 2560), "qwen_image": (60, 3584)}
CHANNELS, CELL = 16, 8


def text(family: str, seed: int) -> list:
    tokens, width = TEXTS[family]
    values = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(seed))
    return [[values, {"pooled_output": torch.zeros(1, 768), "guidance": 3.5}]]


def random_lora(model, rank: int, seed: int) -> Bound:
    """A LoRA of every linear layer."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for path, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear):
            out, into = module.weight.shape
            down = torch.randn(rank, into, generator=generator) / into**0.5
            up = torch.randn(out, rank, generator=generator) * 0.1
            deltas[Site(f"diffusion_model.{path}.weight")] = LowRank(down, up)
    return Bound(None, deltas, {})


def boxes(count: int) -> list[Box]:
    """`count` equal boxes in two rows that cover the picture."""
    down = 2 if count > 1 else 1
    across = count // down
    return [
        Box(c / across, r / down, (c + 1) / across, (r + 1) / down)
        for r in range(down)
        for c in range(across)
    ]


def with_regions(model, family: str, count: int, rank: int):
    drawn = [
        Drawn(
            Region(f"region {i}", box=box),
            RegionText(text(family, 10 + i), None),
            random_lora(model, rank, i) if rank else None,
        )
        for i, box in enumerate(boxes(count))
    ]
    return add_regional_attention(model, drawn, isolation="on")


def hooked_regions(model, family: str, count: int, rank: int, side: int) -> tuple:
    """ComfyUI's way to the same: (positive, negative) with a mask and a LoRA hook for each region,
    and the background's own; the model runs once for each."""
    halves = [text(family, 1), text(family, 1)]
    for number, box in enumerate(boxes(count)):
        hooks = lora_hook(random_lora(model, rank, number).model)
        mask = box.weights(side // CELL, side // CELL)[None]
        own = text(family, 10 + number)
        halves = comfy.hooks.set_conds_props_and_combine(halves, [own, own], mask=mask, hooks=hooks)
    return tuple(halves)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--family", choices=TEXTS, default="z_image")
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--counts", type=int, nargs="+", default=(4, 8))
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=2, help="the first is left out")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="bf16 weights (for a GPU)")
    parser.add_argument("--memory", action="store_true", help="measure memory as well")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        model = random_transformer(args.family, torch.bfloat16 if args.half else torch.float32)
        prompt = text(args.family, 1)
        variants = {"plain": (model, prompt, prompt)}
        for count in args.counts:
            for rank in dict.fromkeys((0, args.rank)):
                name = f"{count} regions" + (f", rank {rank}" if rank else ", prompts alone")
                patched = with_regions(model, args.family, count, rank)
                variants[name] = (patched, prompt, prompt)
        time = (1,) if args.family == "qwen_image" else ()
        latent = torch.zeros(1, CHANNELS, *time, args.size // CELL, args.size // CELL)
        times = compare(variants, latent, args.rounds, args.steps, 1.0)
        memory = {}
        if args.memory:
            memory = {name: peak_memory(v, latent, 1.0) for name, v in variants.items()}
    ratios = {name: own["least"] / times["plain"]["least"] for name, own in times.items()}
    for name, ratio in ratios.items():
        more = f", {memory[name] / memory['plain']:.3f} x memory" if memory else ""
        print(f"{name:28} {ratio:6.3f} x time{more}", file=sys.stderr)
    result = {
        "device": str(comfy.model_management.get_torch_device()),
        "family": args.family,
        "size": args.size,
        "rank": args.rank,
        "seconds": times,
        "ratio": ratios,
        "peak_bytes": memory,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
