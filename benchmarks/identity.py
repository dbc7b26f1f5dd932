"""The base model's identities: who is drawn, when asked for by name, as judged by matching sprites.

scripts/bench identity [--checkpoint demo/models/miniature.safetensors] [--steps 20] [--seeds 5]

Draws each base character alone, pairs in the asked order, and threes in a wide picture, over fixed
prompts and seeds, and says how good the judge itself is on composed pictures that went through the
model's VAE.
"""

import argparse
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
import torch
from _judge import SPRITES, box_of_place, identify, look_at, scores_of  # noqa: F401
from _match import match

DEMO = Path(__file__).absolute().parent.parent / "demo"
sys.path.append(str(DEMO))  # the world's scripts

from characters import all_characters, base_characters  # noqa: E402
from compose import BACKGROUNDS, caption_of, compose, read_sprites  # noqa: E402

PLACES = {1: [""], 2: ["left", "right"], 3: ["left", "middle", "right"]}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", default=str(DEMO / "models" / "miniature.safetensors"))
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--cfg", type=float, default=4.0)
    parser.add_argument("--sampler", default="euler")
    parser.add_argument("--scheduler", default="normal")
    parser.add_argument(
        "--alone", type=int, default=48, help="characters drawn alone, each by name"
    )
    parser.add_argument("--pairs", type=int, default=48, help="pairs drawn in the asked order")
    parser.add_argument("--threes", type=int, default=0, help="threes in wide pictures")
    parser.add_argument("--judged", type=int, default=300, help="composed pictures for the judge")
    parser.add_argument("--save", type=Path, help="folder for a contact sheet of what was drawn")
    return parser.parse_args()


def draw(models, prompt, seeds, width=128, height=128, steps=20, cfg=4.0, **sampling) -> np.ndarray:
    """Draws `prompt` once for each seed with ComfyUI's sampler -> (seeds, h, w, 3) in 0..1.

    `models`: (MODEL, CLIP, VAE); `sampling`: `sampler` and `scheduler`, ComfyUI's names.
    """
    import comfy.sample

    model, clip, vae = models
    channels = model.get_model_object("latent_format").latent_channels
    shape = (1, channels, height // 8, width // 8)
    noise = torch.cat(
        [torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    with torch.inference_mode():
        positive, negative = (
            clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in (prompt, "")
        )
        latent = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampling.get("sampler", "euler"),
            sampling.get("scheduler", "normal"),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=seeds[0],
        )
        return vae.decode(latent).float().clamp(0, 1).cpu().numpy()


def identities(picture, n: int) -> list[str]:
    """Who stands in the n boxes in a row of a picture (h, w, 3)."""
    height, width = picture.shape[:2]
    return [identify(picture, box_of_place(i, n, width, height))[0] for i in range(n)]


def matches(picture, words: list[str]) -> list[float]:
    """How well each asked character, in its box, matches its sprite (_match.py)."""
    height, width = picture.shape[:2]
    boxes = [box_of_place(i, len(words), width, height) for i in range(len(words))]
    return [match(picture, box, word) for box, word in zip(boxes, words, strict=True)]


def prompt_of(words: list[str], number: int) -> str:
    """The fixed prompt of the number-th question: the words in order, a background by turns."""
    return caption_of(words, PLACES[len(words)], BACKGROUNDS[number % len(BACKGROUNDS)])


def share_right(models, groups, args, sheet=None) -> tuple[float, dict, dict]:
    """Share of pictures of `groups` (lists of words) with everybody right; share by group; mean
    match of the characters by group."""
    shares, match_of = {}, {}
    for number, words in enumerate(groups):
        settings = {"cfg": args.cfg, "sampler": args.sampler, "scheduler": args.scheduler}
        settings["width"] = 384 if len(words) == 3 else 128
        pictures = draw(
            models, prompt_of(words, number), range(args.seeds), steps=args.steps, **settings
        )
        right = [identities(picture, len(words)) == list(words) for picture in pictures]
        shares[" + ".join(words)] = sum(right) / len(right)
        found = [m for picture in pictures for m in matches(picture, words)]
        match_of[" + ".join(words)] = sum(found) / len(found)
        if sheet is not None:
            sheet.append(pictures[0])
    return mean(shares), shares, match_of


def mean(shares: dict[str, float]) -> float:
    return sum(shares.values()) / max(len(shares), 1)


def judge_accuracy(vae, count: int) -> dict:
    """Share of characters the judge names rightly on composed pictures, before and after the
    VAE, and how well those match their sprites that went through it."""
    sprites, rng = read_sprites(SPRITES), np.random.default_rng(7)
    words, asked, right = [c.word for c in all_characters()], 0, {"composed": 0, "through_vae": 0}
    matched = 0.0
    for number in range(count):
        chosen = [str(word) for word in rng.choice(words, 1 + number % 2, replace=False)]
        scene = compose(sprites, chosen, str(rng.choice(BACKGROUNDS)), "square", rng)
        if len(chosen) == 1 and scene.caption.count(" the "):
            continue  # one alone who stands aside
        asked += len(chosen)
        picture = torch.from_numpy(scene.picture)[None].float() / 255
        with torch.inference_mode():
            through = vae.decode(vae.encode(picture))[0].clamp(0, 1)
        for name, seen in (("composed", picture[0]), ("through_vae", through)):
            found = identities(seen.numpy(), len(chosen))
            right[name] += sum(a == b for a, b in zip(found, chosen, strict=True))
        matched += sum(matches(through.numpy(), chosen))
    shares = {name: round(n / asked, 4) for name, n in right.items()}
    return shares | {"match_through_vae": round(matched / asked, 4), "characters": asked}


def main() -> None:
    args = arguments()
    from mix_of_show.mos_core.patch.host.miniature import load_miniature

    models, start = load_miniature(args.checkpoint), time.time()
    words = [character.word for character in base_characters()]
    half = len(words) // 2
    pairs = [[words[i], words[(i * 7 + half) % len(words)]] for i in range(len(words))]
    pairs = [pair for pair in pairs if pair[0] != pair[1]][: args.pairs]
    steps = ((1, 0), (5, 17), (11, 31))
    threes = [[words[(i * a + b) % len(words)] for a, b in steps] for i in range(args.threes)]
    words = words[: args.alone]
    drawn: list = []
    single, by_word, match_of_word = share_right(models, [[word] for word in words], args, drawn)
    logging.info("alone: %.3f", single)
    paired, by_pair, match_of_pair = share_right(models, pairs, args, drawn)
    third, _, match_of_three = share_right(models, threes, args)
    if args.save and drawn:
        save_sheet(drawn, args.save)
    result = {
        "single_right": round(single, 4),
        "pairs_both_right": round(paired, 4),
        "threes_all_right": round(third, 4) if threes else None,
        "match": {
            name: round(mean(found), 4)
            for name, found in (
                ("alone", match_of_word),
                ("pairs", match_of_pair),
                ("threes", match_of_three),
            )
            if found
        },
        "worst_matches": dict(sorted(match_of_word.items(), key=lambda item: item[1])[:6]),
        "judge": judge_accuracy(models[2], args.judged) if args.judged else None,
        "never_right": [word for word, share in by_word.items() if share == 0],
        "by_word": by_word,
        "pairs_share": {pair: share for pair, share in by_pair.items() if share},
        "pictures": (len(by_word) + len(by_pair) + len(threes)) * args.seeds,
        "seconds": round(time.time() - start),
        "steps": args.steps,
        "cfg": args.cfg,
    }
    print(json.dumps(result))


def save_sheet(pictures: list, folder: Path, columns: int = 12) -> None:
    """The first seed of every prompt, row by row: `identity.jpg` in `folder`."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    pictures = pictures + [np.ones_like(pictures[0])] * (-len(pictures) % columns)
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures), columns)]
    sheet = (np.concatenate(rows) * 255 + 0.5).astype(np.uint8)
    Image.fromarray(sheet).save(folder / "identity.jpg", quality=85)


if __name__ == "__main__":
    main()
