"""Who is drawn after a fusion: each concept, and characters of the base model that were not fused.

scripts/bench fused_identity [--concepts 3 5 8] [--solvers exact lbfgs sum] [--refine 0 100]
    [--set ridge=0.02 ...]

The miniature world's concepts, each alone (before fusion) and after fusion by each solver (exact
also refined), on
backgrounds and seeds of its own: none of them is in the fusion's prompts. Base characters too are
others than the anchor's.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from _concepts import concept_files
from identity import DEMO, draw, identities

from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.records import WeightedConcept

BACKGROUNDS = ("yellow", "beach", "desert", "white")
UNFUSED = ("fox", "penguin", "ghost", "rocket", "man", "horse", "cat", "bird")
SEEN = "red night green sea blue purple meadow black orange pink gray snow"
LEARNT_FROM = tuple(f"a {{}}, {background} background" for background in SEEN.split())
HELD = tuple(
    f"{word}, {background} background"
    for word, background in (
        ("an owl", "blue"),
        ("a robot", "snow"),
        ("a frog", "pink"),
        ("a chef", "black"),
        ("a dragon", "meadow"),
        ("a snail", "gray"),
        ("a dog", "red"),
        ("a lion", "green"),
        ("a duck", "sea"),
        ("a woman", "purple"),
        ("a fish", "orange"),
        ("a cow", "night"),
    )
)
DEFAULTS = {"width": 128, "height": 128, "ridge": 0.02, "text_rows": "all tokens"}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--names", nargs="+", help="in this order; all of the folder if not given")
    parser.add_argument("--concepts", type=int, nargs="+", default=[3, 5, 8], help="how many")
    parser.add_argument("--solvers", nargs="+", default=["exact", "lbfgs", "sum"])
    parser.add_argument("--refine", type=int, nargs="+", default=[0, 100], help="refine_steps")
    parser.add_argument("--set", nargs="*", default=[], help="settings of the fusion, NAME=JSON")
    parser.add_argument("--sums", type=Path, help="folder for sums, with --set reuse_sums=true")
    parser.add_argument("--published", action="store_true", help="the published prompts")
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12, help="of the pictures that are judged")
    parser.add_argument("--backgrounds", nargs="+", default=BACKGROUNDS)
    parser.add_argument("--unfused", nargs="*", default=UNFUSED)
    return parser.parse_args()


def share_right(models, words: dict[str, str], args) -> dict[str, float]:
    """Share of right pictures of each character; words: name -> what it is asked for by."""
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    shares = {}
    for name, word in words.items():
        found = [
            identities(picture, 1)[0]
            for background in args.backgrounds
            for picture in draw(
                models, f"a {word}, {background} background", seeds, steps=args.steps
            )
        ]
        shares[name] = found.count(name) / len(found)
    return shares


def mean(shares: dict[str, float]) -> float | None:
    return round(sum(shares.values()) / len(shares), 4) if shares else None


def main() -> None:
    args = arguments()
    changes = {k: json.loads(v) for k, _, v in (pair.partition("=") for pair in args.set)}
    prompts = {} if args.published else {"prompts": LEARNT_FROM, "anchor_prompts": HELD}
    fused_with = {**DEFAULTS, **prompts, **changes}
    names = args.names or list(concept_files(args.folder))
    unfused = {word: word for word in args.unfused}
    rows, start = [], time.time()
    with torch.inference_mode():
        model, clip, vae = load_miniature(args.checkpoint)
        entries = [WeightedConcept(read_concept(args.folder / f"{n}.safetensors")) for n in names]
        base = share_right((model, clip, vae), unfused, args)
        alone = {}
        for name, entry in zip(names, entries, strict=True):
            models = (*apply_concepts(model, clip, (entry,)), vae)
            alone |= share_right(models, {name: entry.concept.trigger_words}, args)
        for count in args.concepts:
            chosen, few = tuple(entries[:count]), names[:count]
            words = {n: e.concept.trigger_words for n, e in zip(few, chosen, strict=True)}
            runs = [(s, r) for s in args.solvers for r in args.refine if s == "exact" or not r]
            for solver, refine in runs:
                settings = FuseSettings(solver=solver, refine_steps=refine, **fused_with)
                begun = time.time()
                fused, _ = fuse_concepts(
                    model, clip, chosen, settings, lambda *_: None, sums_folder=args.sums
                )
                seconds = round(time.time() - begun, 1)
                models = (*apply_fused(model, clip, fused), vae)
                shares = share_right(models, words, args)
                kept = share_right(models, unfused, args)
                before = {n: alone[n] for n in few}
                rows.append(
                    {
                        "concepts": count,
                        "solver": solver,
                        "refine_steps": refine,
                        "alone": mean(before),
                        "fused": mean(shares),
                        "unfused": mean(kept),
                        "seconds_of_fusing": seconds,
                        "by_concept": shares,
                        "by_unfused": kept,
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
    result = {
        "benchmark": "fused_identity",
        "settings": fused_with,
        "pictures_each": len(args.backgrounds) * args.seeds,
        "base_unfused": mean(base),
        "alone": alone,
        "rows": rows,
        "seconds": round(time.time() - start),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
