"""Train the held-out characters as concepts, with the pack's own Train ED-LoRA node.

    python demo/train_concepts.py [NAME ...] [--world sd15] [--set INPUT=VALUE ...]
    [--out demo/models/concepts]

Runs the shipped workflow train_a_concept once per character of demo/concepts.json in a real ComfyUI
server and keeps the saved concepts as `<out>/<name>.safetensors`, those of the world of SDXL's
shape as `<out>/sdxl_<name>.safetensors`.
"""

import argparse
import json
import os
from pathlib import Path

from run_workflow import DEMO, Problem, keep_half, read_changes, running

from lib.problem import run_script

WORLDS = {  # --world: what else the workflow is given, the file's name
    "sd15": ({}, "{}.safetensors"),
    "sdxl": (
        {
            "ckpt_name": "demo: miniature_sdxl.safetensors",
            "layers": "linear and convolution",
            "rate_unet": 0.003,
        },
        "sdxl_{}.safetensors",
    ),
}
LONGER = {"blackcat", "poodle", "zebra"}  # of SD1.5's world: 300 steps leave them soft
MORE_STEPS = 600


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="characters; all of demo/concepts.json if none")
    parser.add_argument("--world", choices=list(WORLDS), default="sd15")
    parser.add_argument("--set", dest="changes", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--out", type=Path, default=DEMO / "models" / "concepts")
    return parser.parse_args()


def settings_of(concept: dict) -> dict:
    """The inputs of the workflow that differ from character to character."""
    name = concept["name"]
    return {
        "folder": f"demo: {name}",
        "concept_tokens": f"<{name}>",
        "initializer": concept["class_word"],
        "concept_name": name,
        "preview_every": 0,
    }


def wanted(kind: str) -> bool:
    """Only the training and its save, not the concept's picture."""
    return kind.startswith("MOS_") and kind != "MOS_ApplyConcepts"


def main() -> int:
    arguments = read_arguments()
    concepts = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    concepts = concepts if isinstance(concepts, list) else concepts["concepts"]
    if arguments.names:
        concepts = [c for c in concepts if c["name"] in arguments.names]

    arguments.out.mkdir(parents=True, exist_ok=True)
    changes, file_name = WORLDS[arguments.world]
    with running(__file__, "train_a_concept") as run:
        run.keep(wanted)
        for concept in concepts:
            name = concept["name"]
            longer = arguments.world == "sd15" and name in LONGER
            settings = settings_of(concept) | changes | ({"steps": MORE_STEPS} if longer else {})
            try:
                seconds = run(settings | read_changes(arguments.changes))
            except Problem as problem:
                raise Problem(f"{name}: {problem}") from None
            found = (run.models / "loras").rglob(f"{name}_*.safetensors")
            keep_half(max(found, key=os.path.getmtime), arguments.out / file_name.format(name))
            print(f"{name}: {seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
