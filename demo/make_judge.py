"""Sprites of 48 px for the judge of identity (benchmarks/identity.py) -> demo/judge.npz.

python demo/make_judge.py --sprites sprites.npz
"""

import argparse
from pathlib import Path

import numpy as np
from compose import read_sprites
from PIL import Image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", default=Path(__file__).parent / "judge.npz")
    args = parser.parse_args()
    small = {
        word: np.asarray(Image.fromarray(sprite).resize((48, 48), Image.LANCZOS))
        for word, sprite in read_sprites(args.sprites).items()
    }
    np.savez_compressed(args.out, **small)


if __name__ == "__main__":
    main()
