"""Fuse three of the shipped concepts, with the pack's own Fuse Concepts node.

    python demo/fuse_concepts.py [--set INPUT=VALUE ...] [--out demo/models/fused]

Runs the shipped workflow fuse_concepts in a real ComfyUI server, without its pictures, and keeps
the saved fusion, in 8 bits, as `<out>/three_concepts.safetensors`.
"""

import argparse
from pathlib import Path

from run_workflow import DEMO, keep_packed, read_changes, running

from lib.problem import run_script

KEPT = {"MOS_LoadMiniature", "MOS_LoadEDLoRA", "MOS_FuseConcepts", "MOS_SaveFused"}


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
        seconds = run(read_changes(arguments.changes))
        (saved,) = (run.models / "mix_of_show").glob("*.safetensors")
        keep_packed(saved, arguments.out / "three_concepts.safetensors")
        print(f"fused in {seconds:.0f} s")
    return 0


if __name__ == "__main__":
    run_script(main)
