"""ComfyUI's classes in this process, without a server: for the tests and the benchmarks."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

from . import torchaudio_library, torchvision_operators
from .places import CLONE
from .torch_build import sees_gpu

PACK_MODULE = "mix_of_show"


def prepare(comfyui: Path, base: Path) -> None:
    """Make `comfyui` importable, on the CPU where there is no GPU, with `base` as its folder for
    models and outputs.

    ComfyUI's own `nodes`, `server`, ... come first on sys.path, and the clone is taken off it: its
    folder `nodes` would hide ComfyUI's module of that name.
    """
    sys.path[:] = [entry for entry in sys.path if not _is(entry or os.curdir, CLONE)]
    sys.path.insert(0, str(comfyui))
    torchaudio_library.install()
    torchvision_operators.install()
    import comfy.cli_args  # parses no command line unless asked to

    comfy.cli_args.args.base_directory = str(base)
    if not sees_gpu():
        comfy.cli_args.args.cpu = True


def _is(entry: str, folder: Path) -> bool:
    return os.path.exists(entry) and os.path.samefile(entry, folder)


def load_pack(name: str = PACK_MODULE) -> ModuleType:
    """Load the pack the way ComfyUI does, from its folder and under a name of its own."""
    spec = importlib.util.spec_from_file_location(
        name, CLONE / "__init__.py", submodule_search_locations=[str(CLONE)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
