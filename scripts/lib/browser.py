"""What the browser tests need beside Python: Chromium, two packages of Node.js in the clone, and
the newest of ComfyUI's editors beside the one that ComfyUI brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .lock import only_one
from .places import CLONE

FOLDER = CLONE / ".node"
PACKAGES = {"playwright-core": "1.56.1", "typescript": "5.9.3"}
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "chrome")
INSTALL = ("install", "-y", "-qq", "--no-install-recommends")
SECONDS = 900
"""For one download; without a network a tool may wait for ever."""


def find_chromium() -> str | None:
    """The browser's program, where there is one."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def missing_packages() -> list[str]:
    """The packages to install into the clone, as npm wants them named."""
    wanted = []
    for name, version in PACKAGES.items():
        try:
            found = json.loads((FOLDER / "node_modules" / name / "package.json").read_text())
        except (OSError, ValueError):
            found = {}
        if found.get("version") != version:
            wanted.append(f"{name}@{version}")
    return wanted


def missing() -> list[str]:
    """What the browser tests lack here, in words."""
    lacks = [] if shutil.which("node") else ["Node.js"]
    lacks += [] if find_chromium() else ["Chromium"]
    return lacks + missing_packages()


def bring_packages() -> None:
    """Installs the missing packages into the clone, where npm is there; quiet where it is not."""
    if shutil.which("npm") is None:
        return
    with only_one(CLONE / ".node.lock"):
        wanted = missing_packages()
        if wanted:
            print("installing packages for the browser tests into .node/, once ...", flush=True)
            FOLDER.mkdir(exist_ok=True)
            quiet = ("--no-audit", "--no-fund", "--loglevel=error")
            _call("npm", "install", "--prefix", str(FOLDER), *quiet, *wanted)


def newest_editor() -> Path | None:
    """The pages of the newest editor, where it was brought: for ComfyUI's --front-end-root."""
    pages = FOLDER / "editor" / "comfyui_frontend_package" / "static"
    return pages if pages.is_dir() else None


def bring_newest_editor() -> None:
    """The newest of ComfyUI's editors into .node/editor, beside the one that ComfyUI brings."""
    with only_one(CLONE / ".node.lock"):
        if newest_editor() is None:
            print("installing the newest editor for the browser tests into .node/ ...", flush=True)
            pip = (sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check")
            _call(*pip, "--no-deps", "--target", str(FOLDER / "editor"), "comfyui-frontend-package")


def bring_programs() -> None:
    """Installs Node.js and Chromium by Debian's package manager, where one of them is missing.

    For build machines, as their root: on a person's machine the person decides.
    """
    wanted = [] if shutil.which("npm") else ["nodejs", "npm"]
    wanted += [] if find_chromium() else ["chromium"]
    if wanted and shutil.which("apt-get"):
        print(f"installing {' '.join(wanted)} for the browser tests ...", flush=True)
        apt = ("apt-get", "-o", "DPkg::Lock::Timeout=300")
        if _call(*apt, "update", "-qq"):
            _call(*apt, *INSTALL, *wanted)


def _call(*command: str) -> bool:
    """Runs a command; whether it did what it should. Its own messages say why not."""
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    try:
        program = shutil.which(command[0]) or command[0]  # npm.cmd on Windows
        done = subprocess.run([program, *command[1:]], env=environ, timeout=SECONDS)
        return done.returncode == 0
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"{command[0]}: {error}", flush=True)
        return False
