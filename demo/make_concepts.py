"""Training pictures of the held-out characters -> demo/concepts/<name>/01.jpg, 01.mask.png, 01.txt.

    python demo/make_concepts.py --sprites demo/sprites.npz --out demo

The character stands alone, at each place beside characters that the base model knows, and with
copies of itself at all of two, three or five places. Captions say `<TOK>` for the concept.
`concepts.json` lists the characters and their class words.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from characters import base_characters, held_out_characters
from compose import BACKGROUNDS, article, compose, read_sprites
from PIL import Image

# Who stands in a picture, from left to right: the concept (C) or somebody else (o).
CASTS = (
    *["C"] * 5, "CC", *["Co", "oC"] * 2,
    *["CCC", "Coo", "oCo", "ooC"] * 2,
    *["CCCCC"] * 2,
)  # fmt: skip
SHAPES = {1: "square", 2: "square", 3: "wide", 5: "row"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    sprites, concepts = read_sprites(args.sprites), []
    known = [character.word for character in base_characters()]
    for number, character in enumerate(held_out_characters()):
        rng = np.random.default_rng([args.seed, number])
        folder = args.out / "concepts" / character.word
        folder.mkdir(parents=True, exist_ok=True)
        backgrounds = rng.permutation(np.resize(BACKGROUNDS, len(CASTS)))
        for i, (cast, background) in enumerate(zip(CASTS, backgrounds, strict=True), 1):
            others = iter(rng.choice(known, len(cast), replace=False))
            words = [character.word if who == "C" else str(next(others)) for who in cast]
            scene = compose(sprites, words, str(background), SHAPES[len(cast)], rng, args.size)
            caption = re.sub(rf"\b{article(character.word)}\b", "a <TOK>", scene.caption)
            own = [m for m, word in zip(scene.masks, words, strict=True) if word == character.word]
            Image.fromarray(scene.picture).save(folder / f"{i:02d}.jpg", quality=95, subsampling=0)
            Image.fromarray(np.max(own, axis=0)).save(folder / f"{i:02d}.mask.png", optimize=True)
            (folder / f"{i:02d}.txt").write_text(caption + "\n", encoding="utf-8")
        concepts.append(
            {
                "name": character.word,
                "class_word": character.class_word,
                "emoji": character.emoji,
                "pictures": f"concepts/{character.word}",
                "sprite": f"sprites.npz: {character.word}",
            }
        )
    (args.out / "concepts.json").write_text(json.dumps(concepts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
