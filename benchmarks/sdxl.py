"""What a sampling step costs on SDXL at its full width with concepts in regions (LoRA-Composer),
without guidance and led, against plain sampling and, if wanted, ComfyUI's masked LoRA hooks.

scripts/bench sdxl [--size 512] [--concepts 5] [--rank 32] [--rounds 2] [--hooks] [--float]

Random weights in bfloat16 and random ED-LoRAs on the attention layers, a row of boxes with
background around, guidance scale 7.5, ratios in one run; processor time on a CPU. Layers of the
text encoders do not count in a step: three of each.
"""

import argparse
import json
import sys

import comfy.model_management
import torch
from _models import random_sdxl, random_sdxl_clip
from _random_concepts import random_concepts
from _steps import compare
from gpu import variants


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--concepts", type=int, default=5)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--steps", type=int, default=3, help="of each sampling; the first is left out"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--hooks", action="store_true", help="ComfyUI's masked LoRA hooks too")
    parser.add_argument("--float", action="store_true", help="weights in float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    dtype = torch.float32 if args.float else torch.bfloat16
    with torch.inference_mode():
        model, clip = random_sdxl(args.channels, dtype), random_sdxl_clip(3)
        concepts = random_concepts(model, clip, args.concepts, args.rank)
        ways = variants(model, clip, concepts, args.size, args.size, guided=True)
        if not args.hooks:
            del ways["masked LoRA hooks"]
        latent = torch.zeros(1, 4, args.size // 8, args.size // 8)
        times = compare(ways, latent, args.rounds, args.steps, 7.5)
    plain = times["plain"]["least"]
    ratios = {name: own["least"] / plain for name, own in times.items()}
    for name, ratio in ratios.items():
        print(f"{name:18} {ratio:6.3f} x  ({times[name]['least']:.2f} s)", file=sys.stderr)
    result = {
        "benchmark": "sdxl",
        "device": str(comfy.model_management.get_torch_device()),
        **vars(args),
        "seconds": times,
        "ratio": ratios,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
