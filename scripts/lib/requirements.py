"""What to install beside PyTorch: read from ComfyUI's, the pack's and the test tools' files."""

from __future__ import annotations

import re

from .comfyui import ComfyUI
from .places import CLONE

TORCH_FAMILY = {"torch", "torchvision", "torchaudio"}
"""Never taken from those files: which build fits is decided in `environment`."""

UNNAMED = ("requests",)
"""What ComfyUI 0.3.75 imports without asking for it; other packages used to bring it along."""


def read_requirements(comfyui: ComfyUI, develop: bool) -> list[str]:
    """The requirements to install beside PyTorch: ComfyUI's own, the pack's, and the test tools if
    asked for.
    """
    files = [comfyui.requirements, CLONE / "requirements.txt"]
    if develop:
        files.append(CLONE / "requirements-dev.txt")
    lines = list(UNNAMED)
    for file in files:
        lines += parse_requirements(file.read_text(encoding="utf-8"))
    return lines


def parse_requirements(text: str) -> list[str]:
    """The requirement lines of a requirements file, without comments and PyTorch's family."""
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in text.splitlines())
    return [line for line in lines if line and requirement_name(line) not in TORCH_FAMILY]


def requirement_name(line: str) -> str:
    """The package that a requirement line asks for, in lower case."""
    match = re.match(r"[A-Za-z0-9._-]+", line)
    return match.group().lower() if match else ""
