"""Compose pictures and keep their latents and caption tokens: the training set of train.py.

COMFYUI_PATH=... python demo/make_cache.py --sprites sprites.npz --vae vae.safetensors --squares
12000 --wides 3000 --out cache.safetensors
"""

import argparse
import logging
import multiprocessing
import os

import numpy as np
import torch
from characters import all_characters, base_characters
from compose import BACKGROUNDS, random_scene, read_sprites
from families import FAMILIES
from safetensors.torch import save_file
from start_comfy import start_comfy

# Words that captions here do not have and that still get a token row (trainers' templates).
EXTRA_WORDS = (
    "a photo of a close-up picture the one with and in at on under sky beside next "
    "to good cool nice small big bright dark cropped rendition depiction far left middle right "
    "background style my"
)


def is_alone(caption: str) -> bool:
    """Whether the caption is of one character in the middle of a square picture."""
    return " the " not in caption


def compose_part(job):
    """-> pictures (n, h, w, 3) uint8, captions"""
    sprites, words, shape, count, size, seed = job
    rng = np.random.default_rng(seed)
    scenes = [random_scene(sprites, words, shape, rng, size) for _ in range(count)]
    return np.stack([scene.picture for scene in scenes]), [scene.caption for scene in scenes]


@torch.no_grad()
def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--sprites", "--vae", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--family", choices=list(FAMILIES), default="sd15")
    parser.add_argument("--world", choices=["small", "large"], default="small")
    parser.add_argument("--squares", type=int, default=12000)
    parser.add_argument("--wides", type=int, default=3000)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fp32", action="store_true", help="faster on a CPU without AMX")
    args = parser.parse_args()
    start_comfy(args.processes)
    from vae import encode, read_vae

    vae = read_vae(args.vae).to(memory_format=torch.channels_last)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae, token_ids = vae.to(device), FAMILIES[args.family].token_ids
    sprites, words = read_sprites(args.sprites), [c.word for c in base_characters(args.world)]
    out = {"empty": token_ids([""])[0]}
    known = " ".join(
        [EXTRA_WORDS, *BACKGROUNDS, *(c.class_word for c in all_characters(args.world))]
    )
    out["extra_ids"] = token_ids(sorted(set(known.split())))
    for number, (shape, count) in enumerate((("square", args.squares), ("wide", args.wides))):
        jobs = [
            (sprites, words, shape, 200, args.size, args.seed * 100003 + number * 50021 + i)
            for i in range(-(-count // 200))
        ]
        latents, captions = [], []
        with multiprocessing.get_context("fork").Pool(args.processes) as pool:
            for pictures, texts in pool.imap(compose_part, jobs):
                captions += texts
                for part in torch.from_numpy(pictures).split(50):
                    x = (
                        part.permute(0, 3, 1, 2).to(device).float().div(255)
                    )  # channels last in memory
                    with torch.autocast(device, torch.bfloat16, enabled=not args.fp32):
                        latents.append(encode(vae, x).half().cpu().contiguous())
                if len(captions) % 1000 == 0:
                    logging.info("%s: %d pictures", shape, len(captions))
        alone = [number for number, text in enumerate(captions) if is_alone(text)]
        out[f"{shape}.alone"] = torch.tensor(alone, dtype=torch.int32)
        out[f"{shape}.latents"], out[f"{shape}.ids"] = (
            torch.cat(latents),
            token_ids(captions),
        )
        x = out[f"{shape}.latents"].float()
        logging.info(
            "%s: latents %s, mean %s, std %s",
            shape,
            tuple(x.shape),
            x.mean((0, 2, 3)).tolist(),
            x.std((0, 2, 3)).tolist(),
        )
    save_file(out, args.out + ".part")
    os.replace(args.out + ".part", args.out)


if __name__ == "__main__":
    main()
