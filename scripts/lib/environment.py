"""The virtual environment inside the clone: made once, filled once, then entered at once.

A Python that already has PyTorch (ComfyUI's own, say) lends its packages, so that no second PyTorch
is installed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .comfyui import ComfyUI, find_or_bring
from .lock import only_one
from .places import CLONE, VENV
from .problem import Problem
from .requirements import TORCH_FAMILY, read_requirements, requirement_name

TORCH = "torch==2.13.0"
TORCH_COMPANIONS = ("torchvision==0.28.0", "torchaudio==2.11.0")
"""Installed without their dependencies: they would ask for another PyTorch."""

OLDEST_PYTHON = (3, 10)

AS_IT_IS = "MOS_PYTHON_AS_IT_IS"
"""Environment variable: this Python has what is needed, nothing is installed (no network)."""


def enter(script: str, develop: bool = False) -> ComfyUI:
    """Make sure that this process runs inside the clone's environment; start `script` anew there
    where it does not.

    `develop` asks for the test tools too. Returns the ComfyUI to use.
    """
    if sys.version_info < OLDEST_PYTHON:
        found = ".".join(map(str, sys.version_info[:3]))
        needed = ".".join(map(str, OLDEST_PYTHON))
        raise Problem(f"Python {needed} or newer is needed, this is Python {found}.")
    comfyui = find_or_bring()
    if os.environ.get(AS_IT_IS):
        return comfyui
    wanted = read_requirements(comfyui, develop)
    if inside():
        with only_one(CLONE / ".venv.lock"):
            install_missing(wanted)
        return comfyui
    if importlib.util.find_spec("venv") is None:
        return _without_venv(comfyui, wanted)
    with only_one(CLONE / ".venv.lock"):
        make_venv(lender_of_torch())
        install_missing(wanted)
    _start_again(script)
    raise AssertionError("not reached")


def inside() -> bool:
    """Whether this process runs in the clone's environment."""
    return Path(sys.prefix).absolute() == VENV or (
        VENV.exists() and os.path.samefile(sys.prefix, VENV)
    )


def venv_python(venv: Path = VENV) -> Path:
    """The environment's interpreter."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def lender_of_torch() -> list[str]:
    """The package folders of the Python that runs this, where it has PyTorch; else none."""
    if importlib.util.find_spec("torch") is None:
        return []
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]


def _without_venv(comfyui: ComfyUI, wanted: list[str]) -> ComfyUI:
    """For a Python without the venv module (ComfyUI's portable one): use it as it is, if it has
    everything.
    """
    missing = [line for line in [*wanted, "torch"] if not _has(requirement_name(line))]
    if missing:
        raise Problem(
            f"{sys.executable} has no venv module to make an environment with, and it lacks\n"
            f"  {', '.join(missing)}\nStart the script with an ordinary Python 3.10 or newer."
        )
    return comfyui


def _has(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def make_venv(lender: list[str]) -> None:
    """Make the environment unless a working one is there; anew where another PyTorch is to be
    borrowed.
    """
    state = read_state()
    usable = venv_python().exists() and bool(state)
    if usable and (not lender or state.get("lender") == lender):
        return
    if VENV.exists():
        print("making the virtual environment in .venv/ anew ...", flush=True)
        shutil.rmtree(VENV)
    else:
        print("making a virtual environment in .venv/, once ...", flush=True)
    has_pip = importlib.util.find_spec("ensurepip") is not None
    _call([sys.executable, "-m", "venv", *([] if has_pip else ["--without-pip"]), str(VENV)])
    packages = _packages_folder()
    if not has_pip:  # Debian's python3 without python3-venv
        _call([sys.executable, "-m", "pip", "install", "-qq", "--target", str(packages), "pip"])
    if lender:
        lines = [f"import site; site.addsitedir({folder!r})" for folder in lender]
        (packages / "_lender.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    write_state({"lender": lender})


def _packages_folder() -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([venv_python(), "-c", code], capture_output=True, text=True, check=True)
    return Path(done.stdout.strip())


def install_missing(wanted: list[str]) -> None:
    """Install PyTorch and `wanted` into the environment, unless its state says it was done."""
    state = read_state()
    borrowed = bool(state.get("lender"))
    lines = {*wanted, *([] if borrowed else [TORCH, *TORCH_COMPANIONS])}
    installed = set(state.get("installed", []))
    if lines <= installed:
        return
    pip = [str(venv_python()), "-m", "pip", "install", "-qq", "--disable-pip-version-check"]
    print(
        "installing what ComfyUI and the pack need into .venv/, once (this takes minutes) ...",
        flush=True,
    )
    if borrowed:
        constraints = VENV / "constraints.txt"
        constraints.write_text("\n".join(_torch_versions()) + "\n", encoding="utf-8")
        _call([*pip, "-c", str(constraints), *sorted(TORCH_FAMILY), *wanted])
    else:
        _call([*pip, TORCH, *wanted])
        _call([*pip, "--no-deps", *TORCH_COMPANIONS])
    names = {requirement_name(line) for line in lines}
    kept = {line for line in installed if requirement_name(line) not in names}
    write_state({**state, "installed": sorted(lines | kept)})


def _torch_versions() -> list[str]:
    """Pins of the lent PyTorch family, so that nothing replaces it."""
    code = (
        "import importlib.metadata as m\n"
        f"for name in {sorted(TORCH_FAMILY)}:\n"
        "    try: print(f'{name}=={m.version(name)}')\n"
        "    except m.PackageNotFoundError: pass\n"
    )
    done = subprocess.run([venv_python(), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()


def read_state(venv: Path = VENV) -> dict:
    """What is known of the environment: {"lender": folders, "installed": requirements}; empty
    where it was never made to its end.
    """
    try:
        return json.loads((venv / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_state(state: dict, venv: Path = VENV) -> None:
    """Write the state so that it is there as a whole or not at all."""
    part = venv / "state.json.part"
    part.write_text(json.dumps(state, indent=1), encoding="utf-8")
    part.replace(venv / "state.json")


def _call(command: list[str]) -> None:
    if subprocess.run(command).returncode != 0:
        raise Problem(f"this command failed (its own message is above):\n  {' '.join(command)}")


def _start_again(script: str) -> None:
    command = [str(venv_python()), str(Path(script).absolute()), *sys.argv[1:]]
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    try:
        sys.exit(subprocess.run(command).returncode)
    except KeyboardInterrupt:
        sys.exit(130)
