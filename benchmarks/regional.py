"""What a sampling step costs with 1, 2, 4 and 8 regions, against plain sampling and against
ComfyUI's masked conditionings, which run the model once for each region.

scripts/bench regional [--size 512] [--channels 320] [--rounds 3] [--steps 3] [--threads 1]

SD1.5 with random weights, boxes side by side that cover the picture, ratios in one run; processor
time on a CPU. `--channels 320` is the full size.
"""

import argparse
import json
import sys

import comfy.model_management
import torch
from _models import random_sd15
from _steps import compare, peak_memory

import nodes
from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.regions.region import Box, Region

COUNTS = (1, 2, 4, 8)
TOKENS, WIDTH = 77, 768


def text(seed: int) -> torch.Tensor:
    return torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def boxes(count: int, columns: int = 4) -> list[Box]:
    """`count` equal boxes that cover the picture."""
    across = min(count, columns)
    down = count // across
    return [
        Box(c / across, r / down, (c + 1) / across, (r + 1) / down)
        for r in range(down)
        for c in range(across)
    ]


def with_regions(model, count: int):
    drawn = [
        Drawn(
            Region(f"region {i}", "-", box=box),
            RegionText([(text(10 + i), {})], [(text(50 + i), {})]),
        )
        for i, box in enumerate(boxes(count))
    ]
    return add_regional_attention(model, drawn)


def masked(count: int, size: int) -> list:
    """ComfyUI's way: a conditioning with a mask for each region, combined."""
    combined = []
    for i, box in enumerate(boxes(count)):
        mask = box.weights(size // 8, size // 8)[None]
        combined += nodes.ConditioningSetMask().append([[text(10 + i), {}]], mask, "default", 1.0)[
            0
        ]
    return combined


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--steps", type=int, default=3, help="of each sampling; the first is left out"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--half", action="store_true", help="fp16 weights (for a GPU)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with torch.inference_mode():
        model = random_sd15(args.channels, WIDTH, torch.float16 if args.half else torch.float32)
        positive, negative = [[text(1), {}]], [[text(2), {}]]
        variants = {"plain": (model, positive, negative)}
        for count in args.counts:
            variants[f"{count} regions"] = (
                with_regions(model, count), positive, negative
            )  # fmt: skip
            variants[f"{count} masked conditionings"] = (model, masked(count, args.size), negative)
        latent = torch.zeros(1, 4, args.size // 8, args.size // 8)
        times = compare(variants, latent, args.rounds, args.steps, 7.5)
        memory = {name: peak_memory(v, latent, 7.5) for name, v in variants.items()}
    plain = times["plain"]
    ratios = {name: own["least"] / plain["least"] for name, own in times.items()}
    for name, ratio in ratios.items():
        print(f"{name:28} {ratio:6.3f} x  ({times[name]['least']:.2f} s)", file=sys.stderr)
    result = {
        "device": str(comfy.model_management.get_torch_device()),
        "size": args.size,
        "channels": args.channels,
        "seconds": times,
        "ratio": ratios,
        "per_region": {c: (ratios[f"{c} regions"] - 1) / c for c in args.counts},
        "peak_bytes": memory,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
