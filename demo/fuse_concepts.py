"""Fuse three of the shipped concepts, with the pack's own Fuse Concepts node.

    python demo/fuse_concepts.py [--set INPUT=VALUE ...] [--out demo/models/fused]

Runs the shipped workflow fuse_concepts in a real ComfyUI server, without its pictures, and keeps
the saved fusion, in 8 bits, as `<out>/three_concepts.safetensors`. Unlike the workflow, which takes
a third of the time, it learns from wide pictures of three, because the file is drawn from in such.
"""

import argparse
from pathlib import Path

from run_workflow import DEMO, keep_packed, read_changes, running

from lib.problem import run_script

KEPT = {"MOS_LoadMiniature", "MOS_LoadEDLoRA", "MOS_FuseConcepts", "MOS_SaveFused"}

THREE = "a {} on the left, a {} in the middle, a {} on the right"
TWO = "a {} on the left, a {} on the right"
SCENES = {
    THREE: "red night green sea blue desert",
    TWO: "purple orange pink",
    "a {}": "gray white yellow",
}
KEPT_OF_THE_BASE = (
    "an owl, blue background",
    "a robot, gray background",
    "a frog on the left, a dragon in the middle, a dog on the right, green background",
    "a dog on the left, a cat in the middle, a fox on the right, yellow background",
    "a horse on the left, a man on the right, white background",
    "a bird on the left, a fish in the middle, a car on the right, sea background",
    "a woman on the left, a car on the right, night background",
    "a man on the left, a cat in the middle, a woman on the right, orange background",
)
WIDE = {
    "width": 384,
    "prompts": "\n".join(
        f"{said}, {scene} background" for said, scenes in SCENES.items() for scene in scenes.split()
    ),
    "anchor_prompts": "\n".join(KEPT_OF_THE_BASE),
}


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=DEMO / "models" / "fused")
    return parser.parse_args()


def main() -> int:
    arguments = read_arguments()
    arguments.out.mkdir(parents=True, exist_ok=True)
    with running(__file__, "fuse_concepts") as run:
        run.keep(KEPT.__contains__)
        seconds = run({**WIDE, **read_changes(arguments.changes)})
        (saved,) = (run.models / "mix_of_show").glob("*.safetensors")
        keep_packed(saved, arguments.out / "three_concepts.safetensors")
        print(f"fused in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    run_script(main)
