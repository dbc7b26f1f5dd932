"""Sprites of the world: emoji packages -> one `.npz` of RGBA pictures, a key per character.

npm pack @lobehub/fluent-emoji-3d && npm pack emoji-datasource      # then unpack both archives
python demo/make_sprites.py --emoji fluent/package --names datasource/package --out sprites.npz
"""

import argparse
import json
from pathlib import Path

import numpy as np
from characters import all_characters
from PIL import Image


def read_sprite(path: Path, size: int) -> np.ndarray:
    """-> (size, size, 4) uint8: cropped to its alpha, centred, the longer side filling the
    square."""
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point(lambda a: 255 * (a > 8)).getbbox())
    scale = size / max(picture.size)
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.LANCZOS)
    square = Image.new("RGBA", (size, size))
    square.paste(
        picture, ((size - picture.width) // 2, size - picture.height)
    )  # everybody stands on the ground
    return np.asarray(square)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--emoji", type=Path, required=True, help="folder of @lobehub/fluent-emoji-3d"
    )
    parser.add_argument("--names", type=Path, required=True, help="folder of emoji-datasource")
    parser.add_argument("--world", choices=["small", "large"], default="small")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()

    entries = json.loads((args.names / "emoji.json").read_text())
    files = {name: entry["unified"].lower() for entry in entries for name in entry["short_names"]}
    sprites, missing = {}, []
    for character in all_characters(args.world):
        path = args.emoji / "assets" / f"{files.get(character.emoji, 'none')}.webp"
        if path.exists():
            sprites[character.word] = read_sprite(path, args.size)
        else:
            missing.append(character.emoji)
    if missing:
        raise SystemExit(f"no picture for: {', '.join(missing)}")
    np.savez_compressed(args.out, **sprites)
    print(f"{len(sprites)} sprites of {args.size} px in {args.out}")


if __name__ == "__main__":
    main()
