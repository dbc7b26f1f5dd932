"""Several concepts in one picture without a box drawn: does each appear, and once?

scripts/bench find_regions [--methods found boxes stack fused-prompt] [--counts 2 3 5] [--sets 4]
    [--seeds 2] [--steps 16] [--shape silhouette area box] [--grow 0.25] [--strength 0.3]
    [--find-steps 8] [--names wizard astronaut] [--save FOLDER]

found: Regions From Attention, then Composer: Regional LoRA in the regions that it found.
found-one: the same with region prompts as the node makes them by itself. boxes: Composer in
hand-drawn boxes (equal parts of the picture). stack: all LoRAs on one model, one prompt.
fused-prompt: one fused model, one prompt.

once: share of the asked characters that stand in the picture once, whoever finds them where
(_judge.py). places: share of the regions that lie where the prompt names their character (on the
left, ...).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _scenes import HEIGHT, LAYOUTS, Question, looked_at, questions_of, save_sheet, where
from identity import DEMO
from regions_identity import composer, encode, fused_prompt, known_concepts, stack

from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.find.settings import SHAPES, FindSettings
from mix_of_show.mos_core.patch.compose.composer import ComposerSettings, apply_composer
from mix_of_show.mos_core.patch.find.find_regions import ShortRun, find_regions
from mix_of_show.mos_core.patch.host.miniature import load_miniature

METHODS = ("found", "found-one", "boxes", "stack", "fused-prompt")


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--counts", nargs="+", type=int, default=[2, 3], choices=list(LAYOUTS))
    parser.add_argument("--sets", type=int, default=4, help="sets of concepts for each count")
    parser.add_argument("--names", nargs="+", help="these concepts, in this order, instead of sets")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--scheduler", default="karras")
    parser.add_argument("--find-steps", type=int, default=8)
    parser.add_argument("--strength", type=float, default=ShortRun.strength)
    parser.add_argument("--shape", default=FindSettings.shape, choices=SHAPES)
    parser.add_argument("--grow", type=float, default=FindSettings.grow)
    parser.add_argument("--spread", type=int, default=FindSettings.spread)
    parser.add_argument("--adapt", type=float, default=0.0, help="of Composer, in found and boxes")
    parser.add_argument("--width", type=int, help="of the picture; default: the layout's")
    parser.add_argument("--ridge", type=float, default=0.02, help="of the fusion")
    parser.add_argument("--refine-steps", type=int, default=100, help="of the fusion")
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--files", default="{}.safetensors", help="{}: the character's name")
    parser.add_argument(
        "--whole-prompt",
        action="store_true",
        help="found: what is not in a region has the prompt that names everybody, not the scene",
    )
    parser.add_argument("--unled", action="store_true", help="Composer without guidance")
    parser.add_argument("--save", type=Path, help="folder for a contact sheet of each method")
    return parser.parse_args()


def asked(args, count: int, known) -> list[Question]:
    names = args.names[:count] if args.names else ()
    return questions_of(count, 1 if names else args.sets, known, names=names)


def found(base, question, args, seed: int, template: str):
    """MODEL, positive, negative and the regions that were found."""
    settings = FindSettings(shape=args.shape, grow=args.grow, spread=args.spread)
    run = ShortRun(
        question.stacked, "", seed, args.find_steps, args.cfg, "euler", "normal", args.strength
    )
    latent = {"samples": empty_latent(base, question)}
    result = find_regions(*base, question.concepts, latent, run, settings, template)
    model, clip, _, _ = apply_composer(
        *base, question.concepts, result.regions, composer_settings(args)
    )
    rest = question.stacked if args.whole_prompt else question.scene
    return (model, encode(clip, rest), encode(clip, "")), result.regions


def empty_latent(base, question) -> torch.Tensor:
    channels = base[0].get_model_object("latent_format").latent_channels
    return torch.zeros(1, channels, HEIGHT // 8, question.width // 8)


def composer_settings(args) -> ComposerSettings:
    led = GuidanceSettings(steps=0, reinitialise=False) if args.unled else GuidanceSettings()
    return ComposerSettings(adapt=args.adapt, guidance=led)


def template_of(question) -> str:
    """The character at every place, because the small model reads from the whole sentence where
    characters stand."""
    prompt, words = question.regions.regions[0].prompt, question.concepts[0].concept.trigger_words
    return prompt.replace(words, "%concept%")


def draw(base, vae, question, method, args, seed: int) -> tuple[np.ndarray, object]:
    """The picture (h, w, 3) in 0..1, and the regions if there were any."""
    import comfy.sample

    regions = None
    if method.startswith("found"):
        template = "" if method == "found-one" else template_of(question)
        built, regions = found(base, question, args, seed, template)
    elif method == "boxes":
        built = composer(base, question, args, composer_settings(args))
    else:
        build = {"stack": stack, "fused-prompt": fused_prompt}[method]
        built = build(base, question, args, None)
    latent = empty_latent(base, question)
    latent = comfy.sample.sample(
        built[0], comfy.sample.prepare_noise(latent, seed), args.steps, args.cfg, args.sampler,
        args.scheduler, built[1], built[2], latent, disable_pbar=True, seed=seed,
    )  # fmt: skip
    return vae.decode(latent)[0].float().clamp(0, 1).cpu().numpy(), regions


def in_order(question, regions) -> list[bool]:
    """Whether each character's region lies where the prompt's places have it."""
    right = []
    for name, (left, end) in zip(question.names, question.spans, strict=True):
        masks = [r.mask for r in regions.regions if r.concept == name]
        columns = masks[0].sum(0) if masks else torch.zeros(1)
        middle = (columns * torch.arange(len(columns))).sum() / columns.sum().clamp(min=1e-9)
        middle = float(middle) / len(columns) * question.width
        right.append(bool(masks) and left <= middle <= end)
    return right


def main() -> None:
    args = arguments()
    result: dict = {}
    with torch.inference_mode():
        *base, vae = load_miniature(args.checkpoint)
        known = known_concepts(args.folder, args.files)
        for method in args.methods:
            pictures = []
            for count in args.counts:
                start = time.process_time()
                counts, places = [], []
                for question in asked(args, count, known):
                    question.width = args.width or question.width
                    for seed in range(args.first_seed, args.first_seed + args.seeds):
                        picture, regions = draw(base, vae, question, method, args, seed)
                        there = where(looked_at(picture), question.names)
                        counts.append([len(there[name]) for name in question.names])
                        if regions is not None:
                            places += in_order(question, regions)
                        pictures.append(picture)
                each = [n for row in counts for n in row]
                result.setdefault(method, {})[str(count)] = {
                    "once": round(each.count(1) / len(each), 3),
                    "missing": round(each.count(0) / len(each), 3),
                    "all_once": round(sum(set(row) == {1} for row in counts) / len(counts), 3),
                    "places": round(sum(places) / len(places), 3) if places else None,
                    "characters": len(each),
                    "seconds_each": round((time.process_time() - start) / len(counts), 1),
                }
                line = f"{method} {count}: {result[method][str(count)]}"
                print(line, file=sys.stderr, flush=True)
            if args.save:
                save_sheet(pictures, args.save / f"{method}.jpg")
    settings = {"steps": args.steps, "cfg": args.cfg, "seeds": args.seeds, "sets": args.sets}
    print(json.dumps({"benchmark": "find_regions", **settings, **result}))


if __name__ == "__main__":
    main()
