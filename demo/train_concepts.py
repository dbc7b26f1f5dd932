"""Train the held-out characters as concepts, with the pack's own Train ED-LoRA node.

    python demo/train_concepts.py [NAME ...] [--set INPUT=VALUE ...] [--out demo/models/concepts]

Runs the shipped workflow train_a_concept once per character of demo/concepts.json in a real ComfyUI
server and keeps the saved concepts as `<out>/<name>.safetensors`.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

DEMO = Path(__file__).absolute().parent
sys.path.insert(0, str(DEMO.parent / "scripts"))

from lib import environment, places  # noqa: E402
from lib.problem import Problem, run_script  # noqa: E402


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="characters; all of demo/concepts.json if none")
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


def read_changes(pairs: list[str]) -> dict:
    changes = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes


def main() -> int:
    arguments = read_arguments()
    concepts = json.loads((DEMO / "concepts.json").read_text(encoding="utf-8"))
    concepts = concepts if isinstance(concepts, list) else concepts["concepts"]
    if arguments.names:
        concepts = [c for c in concepts if c["name"] in arguments.names]
    comfyui = environment.enter(__file__)

    from lib.client import Client
    from lib.server import Server
    from lib.workflow import override, read_workflow, to_prompt

    arguments.out.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="mix-of-show-", ignore_cleanup_errors=True) as base,
        Server(comfyui, Path(base), log=Path(base) / "server.log") as server,
    ):
        client = Client(server.address)
        flow = read_workflow(places.WORKFLOWS / "train_a_concept.json")
        plain = to_prompt(flow, client.object_info())
        # Only the training and its save: the workflow's picture of the concept is not needed.
        plain = {
            id: node
            for id, node in plain.items()
            if node["class_type"].startswith("MOS_") and node["class_type"] != "MOS_ApplyConcepts"
        }
        for concept in concepts:
            changes = {**settings_of(concept), **read_changes(arguments.changes)}
            outcome = client.run(override(json.loads(json.dumps(plain)), changes))
            if outcome.status != "success":
                raise Problem(f"{concept['name']}: {outcome.status}\n{server.log_end()}")
            loras = Path(base) / "models" / "loras"
            saved = max(loras.rglob(f"{concept['name']}_*.safetensors"), key=os.path.getmtime)
            shutil.copyfile(saved, arguments.out / f"{concept['name']}.safetensors")
            print(f"{concept['name']}: {outcome.seconds:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
