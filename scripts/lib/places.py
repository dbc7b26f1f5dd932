"""Where things lie: the clone and the folders that the scripts make inside it."""

from pathlib import Path

CLONE = Path(__file__).absolute().parents[2]

VENV = CLONE / ".venv"
COMFYUI_COPY = CLONE / ".comfyui"
SERVER_BASE = CLONE / ".server"
OUTPUT = CLONE / "output"
WORKFLOWS = CLONE / "workflows"
BENCHMARKS = CLONE / "benchmarks"

PACK_NAME = "mix-of-show"
"""The pack's name in the registry, and so its folder name in `custom_nodes`."""
