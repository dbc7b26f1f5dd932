"""Training pictures of the held-out characters -> demo/concepts/<name>/01.jpg, 01.mask.png, 01.txt.

    python demo/make_concepts.py --sprites demo/sprites.npz --out demo

Captions say `<TOK>` for the concept. `concepts.json` lists the characters and their class words.
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from characters import held_out_characters
from compose import BACKGROUNDS, article, compose, read_sprites
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--pictures", type=int, default=20)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=11)
    args = parser.parse_args()
    sprites, concepts = read_sprites(args.sprites), []
    for number, character in enumerate(held_out_characters()):
        rng = np.random.default_rng([args.seed, number])
        folder = args.out / "concepts" / character.word
        folder.mkdir(parents=True, exist_ok=True)
        backgrounds = rng.permutation(np.resize(BACKGROUNDS, args.pictures))
        for i, background in enumerate(backgrounds, 1):
            scene = compose(sprites, [character.word], str(background), "square", rng, args.size)
            caption = re.sub(rf"^{article(character.word)}\b", "a <TOK>", scene.caption)
            Image.fromarray(scene.picture).save(folder / f"{i:02d}.jpg", quality=95, subsampling=0)
            Image.fromarray(scene.masks[0]).save(folder / f"{i:02d}.mask.png", optimize=True)
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
