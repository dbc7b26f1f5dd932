"""Who is drawn when a concept of the miniature world is asked for, as judged by matching sprites.

scripts/bench concepts [NAME ...] [--folder demo/models/concepts] [--seeds 3] [--save FOLDER]

For every concept in the folder: share of right identities at strength 1, with the
embeddings alone (strength 0), and for the class word on the base model.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from identity import DEMO, draw, identities
from PIL import Image

from mix_of_show.mos_core.formats import read_concept
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.miniature import load_miniature
from mix_of_show.mos_core.records import WeightedConcept

BACKGROUNDS = ("red", "beach", "snow", "night")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument(
        "--checkpoint", type=Path, default=DEMO / "models" / "miniature.safetensors"
    )
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--save", type=Path, help="folder for a contact sheet per concept")
    args = parser.parse_args()
    known = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    shares: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        base = load_miniature(args.checkpoint)
        for entry in known:
            file = args.folder / f"{entry['name']}.safetensors"
            if not file.is_file() or (args.names and entry["name"] not in args.names):
                continue
            concept = read_concept(file)
            word, rows = concept.trigger_words, []
            for label, strength, name in (
                ("strength 1", 1.0, word),
                ("strength 0", 0.0, word),
                ("class word", None, entry["class_word"]),
            ):
                models = base
                if strength is not None:
                    use = (WeightedConcept(concept, strength, strength),)
                    models = (*apply_concepts(*base[:2], use), base[2])
                pictures = [
                    picture
                    for background in BACKGROUNDS
                    for picture in draw(models, f"a {name}, {background} background", seeds)
                ]
                right = [identities(p, 1)[0] == entry["name"] for p in pictures]
                shares.setdefault(entry["name"], {})[label] = sum(right) / len(right)
                rows.append(np.concatenate(pictures, 1))
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                sheet = (np.concatenate(rows) * 255).round().astype(np.uint8)
                Image.fromarray(sheet).save(args.save / f"{entry['name']}.jpg", quality=85)
    mean = {
        label: sum(s[label] for s in shares.values()) / len(shares)
        for label in ("strength 1", "strength 0", "class word")
    }
    pictures = len(BACKGROUNDS) * args.seeds
    print(json.dumps({"benchmark": "concepts", "pictures": pictures, "mean": mean, **shares}))


if __name__ == "__main__":
    main()
