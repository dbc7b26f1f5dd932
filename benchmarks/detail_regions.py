"""A second pass for each character: who stands in its box before and after, and how much the seams
show.

scripts/bench detail_regions [--counts 2 3] [--sets 3] [--seeds 1] [--denoise 0.5 0.8] [--steps 16]
    [--context 1.0] [--first stack composer] [--save FOLDER]

The first picture is drawn by all LoRAs on one model (stack), or by Composer in boxes; the boxes,
equal parts of the picture less a margin, are then detailed: narrower ones would cut the characters
of a picture of two, which fill their halves. right: share of boxes with the asked
character (_judge.py). seam: mean difference to the first picture along the regions' borders (where
the mask is below 0.1 and not 0), by that of a plain trip through the VAE. outside: largest
difference of a pixel outside the masks; it must be 0.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _scenes import HEIGHT, LAYOUTS, judge, questions_of, save_sheet
from identity import DEMO
from regions_identity import composer, known_concepts, stack

from mix_of_show.mos_core.patch.compose.composer import ComposerSettings
from mix_of_show.mos_core.patch.detail import DetailSettings, detail_regions
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.mos_core.regions.soften import feather
from mix_of_show.mos_core.regions.to_masks import region_masks

ACROSS, DOWN = 2, 8  # pixels between a region and the sides, the top and bottom of its part
FEATHER = 4.0


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--first", nargs="+", default=["stack"], choices=["stack", "composer"])
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 3], choices=list(LAYOUTS))
    parser.add_argument("--denoise", nargs="+", type=float, default=[0.5, 0.8])
    parser.add_argument("--sets", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--context", type=float, default=1.0)
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--save", type=Path, help="folder for contact sheets")
    return parser.parse_args()


def first_picture(base, vae, question, method, args, seed: int) -> torch.Tensor:
    import comfy.sample

    build = {"stack": stack, "composer": composer}[method]
    model, positive, negative = build(base, question, args, ComposerSettings())
    latent = torch.zeros(1, 4, HEIGHT // 8, question.width // 8)
    drawn = comfy.sample.sample(
        model, comfy.sample.prepare_noise(latent, seed), args.steps, args.cfg, "dpmpp_2m",
        "karras", positive, negative, latent, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return vae.decode(drawn).float().clamp(0, 1).cpu()


def regions_of(question) -> Regions:
    """The parts of the picture less a margin; a prompt names its character and the scene."""
    made = []
    for entry, (left, end) in zip(question.concepts, question.spans, strict=True):
        box = Box(
            (left + ACROSS) / question.width,
            DOWN / HEIGHT,
            (end - ACROSS) / question.width,
            1 - DOWN / HEIGHT,
        )
        made.append(Region(f"a {entry.concept.trigger_words}, {question.scene}", box=box))
    return Regions(question.width, HEIGHT, tuple(made))


def differences(vae, before, after, regions) -> tuple[float, float, float]:
    """Along the borders: of the detailed picture, of a trip through the VAE; and outside."""
    alpha = feather(region_masks(regions, before.shape[2], before.shape[1]), FEATHER).amax(0)
    border = (alpha > 0) & (alpha < 0.1)
    trip = vae.decode(vae.encode(before)).float().cpu()
    changed = (after - before).abs()[0]
    return (
        float(changed[border].mean()),
        float((trip - before).abs()[0][border].mean()),
        float(changed[alpha == 0].max()) if (alpha == 0).any() else 0.0,
    )


def main() -> None:
    args = arguments()
    result: dict = {}
    with torch.inference_mode():
        *base, vae = load_miniature(args.checkpoint)
        known = known_concepts(args.folder)
        for method in args.first:
            for count in args.counts:
                start = time.process_time()
                rows: dict = {"before": [], **{str(d): [] for d in args.denoise}}
                seams, outside, pictures = [], 0.0, []
                for question in questions_of(count, args.sets, known):
                    regions = regions_of(question)
                    for seed in range(args.first_seed, args.first_seed + args.seeds):
                        before = first_picture(base, vae, question, method, args, seed)
                        rows["before"] += judge(before[0].numpy(), question)[0]
                        shown = [before[0].numpy()]
                        for denoise in args.denoise:
                            settings = DetailSettings(
                                seed + 1000, args.steps, args.cfg, denoise=denoise,
                                side=HEIGHT - 2 * DOWN if count == 2 else HEIGHT,
                                context=args.context, feather=FEATHER,
                            )  # fmt: skip
                            after = detail_regions(
                                before, *base, vae, question.concepts, regions, settings
                            ).image
                            rows[str(denoise)] += judge(after[0].numpy(), question)[0]
                            along, trip, out = differences(vae, before, after, regions)
                            seams.append((along, trip))
                            outside = max(outside, out)
                            shown.append(after[0].numpy())
                        pictures.append(np.concatenate(shown, 0))
                along, trip = (sum(column) / len(seams) for column in zip(*seams, strict=True))
                key = f"{method} {count}"
                result[key] = {
                    **{name: round(sum(v) / len(v), 3) for name, v in rows.items()},
                    "boxes": len(rows["before"]),
                    "seam": round(along, 4),
                    "seam_of_vae": round(trip, 4),
                    "outside": outside,
                    "seconds": round(time.process_time() - start),
                }
                print(f"{key}: {result[key]}", file=sys.stderr, flush=True)
                if args.save:
                    save_sheet(pictures, args.save / f"detail_{method}_{count}.png")
    print(json.dumps({"benchmark": "detail_regions", "steps": args.steps, **result}))


if __name__ == "__main__":
    main()
