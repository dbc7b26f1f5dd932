"""What a sampling step costs while LoRA-Composer leads the latent, against plain sampling.

scripts/bench guided [--size 512] [--concepts 5] [--channels 320] [--rounds 3] [--maps 1/32]

SD1.5 with random weights and random LoRAs, a row of boxes with background around, guidance scale
7.5, ratios in one run; processor time on a CPU. "recomputed": the blocks are computed again in the
backward pass, as the guidance does by itself where memory is short.
"""

import argparse
import json
import sys

import comfy.model_management
import torch
from _models import random_sd15
from _steps import compare, peak_memory
from composer import WIDTH, boxes, composed, random_concept, text

from mix_of_show.mos_core.compose.drawn import Drawn, RegionText
from mix_of_show.mos_core.compose.log import ComposerLog
from mix_of_show.mos_core.compose.settings import RESOLUTIONS, GuidanceSettings
from mix_of_show.mos_core.families.unet import SD15
from mix_of_show.mos_core.patch.compose.guidance import Guidance, add_guidance
from mix_of_show.mos_core.patch.train.targets import unet_targets
from mix_of_show.mos_core.regions.region import Region, Regions


def guided(model, count: int, size: int, maps: str, name: str):
    """A clone of a model with regions that is led in every step; no re-initialisation."""
    led = model.clone()
    regions = Regions(size, size, tuple(Region(str(b), box=b) for b in boxes(count)))
    text = RegionText(None, None)
    drawn = [Drawn(region, text, None, (1, 2)) for region in regions.regions]
    settings = GuidanceSettings(
        resolution=maps, reinitialise=False, save_memory=name == "recomputed"
    )
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    add_guidance(led, Guidance(drawn, settings, log))
    return led


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--channels", type=int, default=320)
    parser.add_argument("--concepts", type=int, default=5)
    parser.add_argument("--maps", choices=list(RESOLUTIONS), default="1/32")
    parser.add_argument("--injection", default="full")
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
        targets = unet_targets(model.model, SD15.layers, "attention")
        shapes = {name.removeprefix("unet."): target.shape for name, target in targets}
        chain = tuple(random_concept(i, shapes, 4) for i in range(args.concepts))
        whole = ([[text(1), {}]], [[text(2), {}]])
        patched = composed(model, chain, args.injection, "on")
        variants = {"plain": (model, *whole), "regions": (patched, *whole)}
        for name in ("led", "recomputed"):
            led = guided(patched, args.concepts, args.size, args.maps, name)
            variants[name] = (led, *whole)
        latent = torch.zeros(1, 4, args.size // 8, args.size // 8)
        times = compare(variants, latent, args.rounds, args.steps, 7.5)
        memory = {name: peak_memory(v, latent, 7.5) for name, v in variants.items()}
    plain = times["plain"]["least"]
    ratios = {name: own["least"] / plain for name, own in times.items()}
    for name, ratio in ratios.items():
        print(f"{name:12} {ratio:6.3f} x  ({times[name]['least']:.2f} s)", file=sys.stderr)
    result = {
        "benchmark": "guided",
        "device": str(comfy.model_management.get_torch_device()),
        **vars(args),
        "seconds": times,
        "ratio": ratios,
        "peak_bytes": memory,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
