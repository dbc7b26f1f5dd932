"""Several concepts in one picture: who stands in which box, for every way that ComfyUI offers.

scripts/bench regions_identity [--methods stack hooks fused composer ...] [--counts 2 3 5]
    [--names wizard superhero] [--sets 4] [--seeds 2] [--steps 16] [--save FOLDER] [--fused FILE]
    [--checkpoint miniature_flux.safetensors --files flux_{}.safetensors]

stack: all LoRAs on one model, one prompt. hooks: ComfyUI's masked LoRA hooks. fused: regional
attention on one fused model of all concepts of the folder, or of FILE; fused-prompt: that model
with the one prompt, without regions. composer: Composer: Regional LoRA as it comes. composer-no-X:
without one of its parts (isolation, enhancement, fill, restriction, reinit, guidance: all but
injection and isolation), with placement, or without the regions' own prompts (composer-no-texts:
the one prompt is everybody's). composer-paper, composer-reference: its other injections.

Layouts, prompts and noise are fixed and the same for all (_scenes.py). A box is right if the judge
(_judge.py) finds its concept in it; `elsewhere` counts asked characters outside their boxes, per
picture.
"""

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from _concepts import concept_files
from _random_concepts import lora_hook
from _scenes import HEIGHT, LAYOUTS, judge, questions_of, save_sheet
from identity import DEMO

from mix_of_show.mos_core.compose.guidance import GuidanceTerms
from mix_of_show.mos_core.compose.placement import STRENGTH
from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.formats.fused_file import read_fused
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.compose.composer import ComposerSettings, apply_composer
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.fuse.fused import apply_fused
from mix_of_show.mos_core.patch.host.bind import bind
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.patch.regional.attention import add_regional_attention
from mix_of_show.mos_core.patch.regional.texts import draw_prompts
from mix_of_show.mos_core.patch.text.layerwise_model import add_layerwise_text
from mix_of_show.mos_core.records import WeightedConcept

FUSE_WORKFLOW = DEMO.parent / "workflows" / "fuse_concepts.json"
FUSED: list = []  # MODEL and CLIP
ABLATIONS = ("isolation", "enhancement", "fill", "restriction", "reinit", "guidance")
METHODS = (
    "stack",
    "hooks",
    "fused",
    "fused-prompt",
    "composer",
    *(f"composer-no-{part}" for part in ABLATIONS),
    "composer-placement",
    "composer-no-texts",
    "composer-paper",
    "composer-reference",
)


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument(
        "--counts", nargs="+", type=int, default=list(LAYOUTS), choices=list(LAYOUTS)
    )
    parser.add_argument("--sets", type=int, default=4, help="sets of concepts for each count")
    parser.add_argument(
        "--names", nargs="+", help="these characters in place of choices of concepts"
    )
    parser.add_argument("--gap", type=int, default=0, help="pixels left free beside each box")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="dpmpp_2m")
    parser.add_argument("--scheduler", default="karras")
    parser.add_argument(
        "--unled", action="store_true", help="every composer without guidance, re-initialisation"
    )
    parser.add_argument(
        "--border", type=float, default=0.0, help="of isolation, as the node's isolation_border"
    )
    parser.add_argument("--step-size", type=float, help="of the guidance; default: published")
    parser.add_argument("--largest-change", type=float, help="of a step; default: as the node")
    parser.add_argument("--maps", default="auto", help="resolution of the guidance")
    parser.add_argument("--ridge", type=float, default=0.02, help="of the fusion")
    parser.add_argument("--refine-steps", type=int, default=100, help="of the fusion")
    parser.add_argument("--fused", type=Path, help="a fused file in place of a new fusion")
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--files", default="{}.safetensors", help="{}: the character's name")
    parser.add_argument("--save", type=Path, help="folder for a contact sheet of each method")
    return parser.parse_args()


def known_concepts(folder: Path, pattern: str = "{}.safetensors") -> tuple[WeightedConcept, ...]:
    files = concept_files(folder, pattern)
    return tuple(WeightedConcept(read_concept(file, name=name)) for name, file in files.items())


# -------------------------------------------------------------------------------- methods


def encode(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def stack(base, question, args, settings):
    model, clip = apply_concepts(*base, question.concepts)
    return model, encode(clip, question.stacked), encode(clip, "")


def hooks(base, question, args, settings):
    """A masked conditioning for every region with the concept's LoRA as a hook, the scene for the
    rest, as ComfyUI's own nodes build it; the texts are layer-wise as everywhere here."""
    import comfy.hooks

    model, clip = base
    model = model.clone()
    if any(entry.concept.tables for entry in question.concepts):
        add_layerwise_text(model)
    positive, negative = [], []
    entries = {entry.concept.name: entry for entry in question.concepts}
    for region in question.regions.regions:
        chain = (entries[region.concept],) if region.concept else ()
        _, own = apply_concepts(*base, chain)
        mask = region.box.weights(HEIGHT // 8, question.width // 8)[None]
        group = None
        for entry in chain:
            bound = bind(model, None, entry)
            convolutions = {site: delta.inner for site, delta in bound.maps.items()}
            group = lora_hook({**bound.model, **convolutions})
        for kept, text in ((positive, region.prompt), (negative, "")):
            (made,) = comfy.hooks.set_conds_props(
                [encode(own, text)], 1.0, "default", mask=mask, hooks=group
            )
            kept += made
    for kept, text in ((positive, question.scene), (negative, "")):
        kept += comfy.hooks.set_default_conds_and_combine([[]], [encode(clip, text)])[0]
    return model, positive, negative


def fusion_settings(args) -> FuseSettings:
    """Those of the shipped workflow fuse_concepts, but for what was asked for."""
    (node,) = [
        node
        for node in json.loads(FUSE_WORKFLOW.read_text(encoding="utf-8"))["nodes"]
        if node["type"] == "MOS_FuseConcepts"
    ]
    names = [item["name"] for item in node["inputs"] if "widget" in item]
    given = dict(zip(names, node["widgets_values"], strict=False))
    return FuseSettings(
        width=given["width"],
        height=given["height"],
        ridge=args.ridge,
        text_rows=given["text_rows"],
        steps=given["steps"],
        prompts=tuple(given["prompts"].splitlines()),
        anchor_prompts=tuple(given["anchor_prompts"].splitlines()),
        refine_steps=args.refine_steps,
    )


def fuse_all(base, args):
    """One model with all concepts of the folder, fused once; or with those of a fused file."""
    if not FUSED and args.fused:
        FUSED.extend(apply_fused(*base, read_fused(args.fused)))
    elif not FUSED:
        chain = known_concepts(args.folder, args.files)
        result, _ = fuse_concepts(*base, chain, fusion_settings(args), lambda done, total: None)
        FUSED.extend(apply_fused(*base, result))
    return FUSED


def fused(base, question, args, settings):
    model, clip = fuse_all(base, args)
    model = add_regional_attention(model, draw_prompts(clip, question.regions))
    return model, encode(clip, question.scene), encode(clip, "")


def fused_prompt(base, question, args, settings):
    model, clip = fuse_all(base, args)
    return model, encode(clip, question.stacked), encode(clip, "")


def composer(base, question, args, settings):
    model, clip, _, _ = apply_composer(*base, question.concepts, question.regions, settings)
    return model, encode(clip, question.scene), encode(clip, "")


def no_texts(base, question, args, settings):
    silent = tuple(replace(region, prompt="") for region in question.regions.regions)
    regions = replace(question.regions, regions=silent)
    model, clip, _, _ = apply_composer(*base, question.concepts, regions, settings)
    return model, encode(clip, question.stacked), encode(clip, "")


def settings_of(method: str, args) -> ComposerSettings:
    """What Composer: Regional LoRA would be given."""
    off = method.removeprefix("composer-no-")
    terms = {name: float(name != off) for name in ("enhancement", "fill", "restriction")}
    chosen = {"terms": GuidanceTerms(**terms), "resolution": args.maps}
    if args.step_size is not None:
        chosen["step_size"] = args.step_size
    if args.largest_change is not None:
        chosen["largest_change"] = args.largest_change
    if off in ("reinit", "guidance") or args.unled:
        chosen["reinitialise"] = False
    if off == "guidance" or args.unled:
        chosen["steps"] = 0
    injection = method.removeprefix("composer-")
    return ComposerSettings(
        injection if injection in ("paper", "reference") else "full",
        off != "isolation",
        GuidanceSettings(**chosen),
        placement=STRENGTH if method == "composer-placement" else 0.0,
        border=args.border,
    )


def draw(base, vae, question, method, args) -> np.ndarray:
    """(seeds, h, w, 3) in 0..1"""
    import comfy.sample

    others = {
        "stack": stack,
        "hooks": hooks,
        "fused": fused,
        "fused-prompt": fused_prompt,
        "composer-no-texts": no_texts,
    }
    build = others.get(method, composer)
    settings = settings_of(method, args)
    model, positive, negative = build(base, question, args, settings)
    channels = model.get_model_object("latent_format").latent_channels
    shape = (1, channels, HEIGHT // 8, question.width // 8)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    noise = torch.cat(noise)
    latent = comfy.sample.sample(
        model, noise, args.steps, args.cfg, args.sampler, args.scheduler, positive, negative,
        torch.zeros_like(noise), disable_pbar=True, seed=0,
    )  # fmt: skip
    return vae.decode(latent).float().clamp(0, 1).cpu().numpy()


def main() -> None:
    args = arguments()
    with torch.inference_mode():
        *base, vae = load_miniature(args.checkpoint)
        known = known_concepts(args.folder, args.files)
        result: dict = {}
        for method in args.methods:
            rows = []
            for count in [len(args.names)] if args.names else args.counts:
                start = time.process_time()
                boxes, pictures, elsewhere = [], [], []
                for question in questions_of(count, args.sets, known, args.gap, args.names):
                    drawn = draw(base, vae, question, method, args)
                    rows += [(picture, question) for picture in drawn]
                    for picture in drawn:
                        right, astray = judge(picture, question)
                        boxes += right
                        pictures.append(all(right))
                        elsewhere.append(astray)
                result.setdefault(method, {})[str(count)] = {
                    "box_right": round(sum(boxes) / len(boxes), 3),
                    "all_right": round(sum(pictures) / len(pictures), 3),
                    "elsewhere": round(sum(elsewhere) / len(elsewhere), 3),
                    "pictures": len(pictures),
                    "seconds_each": round((time.process_time() - start) / len(pictures), 1),
                }
                line = f"{method} {count}: {result[method][str(count)]}"
                print(line, file=sys.stderr, flush=True)
            if args.save:
                save_sheet([picture for picture, _ in rows], args.save / f"{method}.jpg")
    summary = {
        method: round(np.mean([c["box_right"] for c in counts.values()]), 3)
        for method, counts in result.items()
    }
    settings = {"steps": args.steps, "cfg": args.cfg, "seeds": args.seeds, "sets": args.sets}
    print(json.dumps({"benchmark": "regions_identity", **settings, "mean": summary, **result}))


if __name__ == "__main__":
    main()
