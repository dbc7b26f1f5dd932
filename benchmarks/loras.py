"""Who is drawn with the ordinary LoRAs of the miniature world, as judged by matching sprites.

scripts/bench loras [--folder demo/models/concepts] [--files {}_lora.safetensors] [--seeds 2]
    [--first-seed 101] [--save FOLDER]

Each file is applied as ComfyUI's Load LoRA applies it and asked for by the word that it was trained
on: share of right identities at strength 1, and of the class word's own character at strength 0.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from _concepts import concept_files
from concepts import BACKGROUNDS
from identity import DEMO, draw, identities
from PIL import Image
from safetensors import safe_open

from mix_of_show.mos_core.patch.host.miniature import load_miniature


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--folder", type=Path, default=DEMO / "models" / "concepts")
    parser.add_argument("--files", default="{}_lora.safetensors", help="{}: the character's name")
    parser.add_argument("--first-seed", type=int, default=101)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--save", type=Path, help="folder for a contact sheet per LoRA")
    args = parser.parse_args()
    import comfy.sd
    import comfy.utils

    seeds = list(range(args.first_seed, args.first_seed + args.seeds))
    shares: dict[str, dict[str, float]] = {}
    with torch.inference_mode():
        model, clip, vae = load_miniature(args.checkpoint)
        for file in concept_files(args.folder, args.files).values():
            with safe_open(file, "pt") as opened:
                metadata = opened.metadata()
            name, word = metadata["ss_output_name"], metadata["modelspec.trigger_phrase"]
            lora, rows = comfy.utils.load_torch_file(str(file), safe_load=True), []
            for strength, expected in ((1.0, name), (0.0, word)):
                with_lora = comfy.sd.load_lora_for_models(model, clip, lora, strength, strength)
                models = (*with_lora, vae)
                pictures = [
                    picture
                    for background in BACKGROUNDS
                    for picture in draw(models, f"a {word}, {background} background", seeds)
                ]
                right = [identities(picture, 1)[0] == expected for picture in pictures]
                shares.setdefault(name, {})[f"strength {strength:g}"] = sum(right) / len(right)
                rows.append(np.concatenate(pictures, 1))
            if args.save:
                args.save.mkdir(parents=True, exist_ok=True)
                sheet = (np.concatenate(rows) * 255).round().astype(np.uint8)
                Image.fromarray(sheet).save(args.save / f"{name}_lora.jpg", quality=85)
    pictures = len(BACKGROUNDS) * args.seeds
    print(json.dumps({"benchmark": "loras", "pictures": pictures, **shares}))


if __name__ == "__main__":
    main()
