"""What a sampling step costs with concepts in regions (LoRA-Composer, without guidance), against
plain sampling and against ComfyUI's masked LoRA hooks, which run the model once for each concept.

scripts/bench composer [--size 512] [--concepts 5] [--rank 4] [--layers attention] [--rounds 3]

SD1.5 with random weights and random LoRAs, a row of boxes with background around, ratios in one
run; processor time on a CPU. `--channels 320` is the full size.
"""

import argparse
import json
import sys

import comfy.hooks
import comfy.lora
import comfy.model_management
import torch
from _models import random_sd15
from _steps import compare, peak_memory

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.injection import INJECTIONS
from mix_of_show.mos_core.families.unet import SD15, comfy_unet_key
from mix_of_show.mos_core.formats.parts import flatten_factors
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.train.targets import unet_targets
from mix_of_show.mos_core.records import Concept, LowRank, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region

TOKENS, WIDTH = 77, 768


def text(seed: int) -> torch.Tensor:
    return torch.randn(1, TOKENS, WIDTH, generator=torch.Generator().manual_seed(seed))


def random_concept(number: int, shapes: dict, rank: int) -> WeightedConcept:
    generator = torch.Generator().manual_seed(number)

    def factor(*shape):
        return torch.randn(*shape, generator=generator) * 0.02

    factors = {
        name: LowRank(factor(rank, *shape[1:]), factor(shape[0], rank, *shape[2:]))
        for name, shape in shapes.items()
    }
    tokens = {f"<concept{number}>": torch.zeros(len(SD15.layers), WIDTH)}
    return WeightedConcept(Concept.edlora(f"concept {number}", tokens, {}, factors, "sd15"))


def boxes(count: int) -> list[Box]:
    """A row of boxes, 0.7 of the height, with background above and between."""
    return [Box((i + 0.05) / count, 0.3, (i + 0.95) / count, 1) for i in range(count)]


def composed(model, chain, setting: str, isolation: str):
    drawn = [
        Drawn(
            Region(entry.concept.name, "-", box=box),
            RegionText([(text(10 + i), {})], [(text(50 + i), {})]),
            bind(model, None, entry),
        )
        for i, (entry, box) in enumerate(zip(chain, boxes(len(chain)), strict=True))
    ]
    return add_regional_attention(model, drawn, setting, isolation)


def hooked(chain, size: int) -> tuple[list, list]:
    """ComfyUI's way: positive and negative with a mask and a LoRA hook for each region, and the
    background's own."""
    halves: list = [[[text(1), {}]], [[text(2), {}]]]
    for i, (entry, box) in enumerate(zip(chain, boxes(len(chain)), strict=True)):
        keys = {m: comfy_unet_key(m, SD15) for m in entry.concept.unet}
        patches = comfy.lora.load_lora(flatten_factors(entry.concept.unet), keys, log_missing=False)
        hooks = comfy.hooks.create_hook_lora(patches, 1.0, 0.0)
        for hook in hooks.hooks:
            hook.need_weight_init = False  # `patches` are named as the model's own weights
        mask = box.weights(size // 8, size // 8)[None]
        halves = comfy.hooks.set_conds_props_and_combine(
            halves, [[[text(10 + i), {}]], [[text(50 + i), {}]]], mask=mask, hooks=hooks
        )
    return tuple(halves)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--concepts", type=int, default=5)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--layers", choices=("attention", "all linear"), default="attention")
    parser.add_argument("--settings", nargs="+", choices=INJECTIONS, default=INJECTIONS)
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
        targets = unet_targets(model.model, SD15.layers, args.layers)
        shapes = {name.removeprefix("unet."): target.shape for name, target in targets}
        chain = tuple(random_concept(i, shapes, args.rank) for i in range(args.concepts))
        whole = ([[text(1), {}]], [[text(2), {}]])
        variants = {"plain": (model, *whole)}
        for setting in args.settings:
            for isolation in ("off", "on"):
                patched = composed(model, chain, setting, isolation)
                variants[f"{setting}, isolation {isolation}"] = (patched, *whole)
        variants["masked LoRA hooks"] = (model, *hooked(chain, args.size))
        latent = torch.zeros(1, 4, args.size // 8, args.size // 8)
        times = compare(variants, latent, args.rounds, args.steps, 7.5)
        memory = {name: peak_memory(v, latent, 7.5) for name, v in variants.items()}
    plain = times["plain"]["least"]
    ratios = {name: own["least"] / plain for name, own in times.items()}
    for name, ratio in ratios.items():
        print(f"{name:28} {ratio:6.3f} x  ({times[name]['least']:.2f} s)", file=sys.stderr)
    result = {
        "device": str(comfy.model_management.get_torch_device()),
        "size": args.size,
        "channels": args.channels,
        "concepts": args.concepts,
        "rank": args.rank,
        "layers": args.layers,
        "seconds": times,
        "ratio": ratios,
        "hooks_over_ours": {
            name: ratios["masked LoRA hooks"] / ratio
            for name, ratio in ratios.items()
            if "isolation" in name
        },
        "peak_bytes": memory,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
