"""A ComfyUI server for a script of the world, and one of the shipped workflows to run on it."""

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEMO = Path(__file__).absolute().parent
sys.path.insert(0, str(DEMO.parent / "scripts"))

from lib import environment, places  # noqa: E402
from lib.problem import Problem  # noqa: E402


class Run:
    """workflow: the name of a shipped one. models: the server's models folder, new and empty."""

    def __init__(self, server, base: Path, workflow: str):
        from lib.client import Client
        from lib.workflow import read_workflow, to_prompt

        self.server, self.models = server, base / "models"
        self.client = Client(server.address)
        flow = read_workflow(places.WORKFLOWS / f"{workflow}.json")
        self.prompt = to_prompt(flow, self.client.object_info())

    def keep(self, wanted) -> None:
        """Leaves out every node whose type `wanted` refuses."""
        self.prompt = {id: n for id, n in self.prompt.items() if wanted(n["class_type"])}

    def __call__(self, changes: dict) -> float:
        """Runs the workflow with these inputs; -> seconds. Raises Problem if it fails."""
        from lib.workflow import override

        outcome = self.client.run(override(json.loads(json.dumps(self.prompt)), changes))
        if outcome.status != "success":
            raise Problem(f"{outcome.status}\n{self.server.log_end()}")
        return outcome.seconds


@contextmanager
def running(script: str, workflow: str) -> Iterator[Run]:
    """script: the caller's __file__, which is started again in the right environment if need be."""
    comfyui = environment.enter(script)

    from lib.server import Server

    with (
        tempfile.TemporaryDirectory(prefix="mix-of-show-", ignore_cleanup_errors=True) as base,
        Server(comfyui, Path(base), log=Path(base) / "server.log") as server,
    ):
        yield Run(server, Path(base), workflow)


def keep_half(saved: Path, kept: Path) -> None:
    """Copies what a node saved in fp16, as the checkpoint beside it; on a CPU it is fp32."""
    import safetensors
    from safetensors.torch import save_file

    with safetensors.safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name).half() for name in file.keys()}
        save_file(tensors, kept, file.metadata())


def keep_packed(saved: Path, kept: Path) -> None:
    """Copies a fusion with its weights in 8 bits, which is version 2 of its format."""
    import safetensors
    from safetensors.torch import save_file

    sys.path.append(str(DEMO.parent))
    from mos_core.formats.packed import pack

    with safetensors.safe_open(saved, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        weights = {name: t for name, t in tensors.items() if name.endswith(".diff")}
        others = {name: t.half() for name, t in tensors.items() if name not in weights}
        save_file({**others, **pack(weights)}, kept, {**file.metadata(), "version": "2"})


def read_changes(pairs: list[str]) -> dict:
    """["steps=300", "layers=attention"] -> inputs and their values, JSON where it is JSON."""
    changes = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value
    return changes
