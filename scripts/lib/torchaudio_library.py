"""Let torchaudio be imported beside a PyTorch build that its compiled half does not fit.

torchaudio from the package index is built for CUDA. Beside a CPU-only PyTorch its library does not
load, and the import ends there, although its Python half does without (as it does where the library
is not installed). ComfyUI's audio nodes need no more than that half to be loaded.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys

from .torch_build import is_cpu_build

LOADING = "torchaudio._extension.utils"  # its _load_lib loads the library


class _BeforeLoading(importlib.abc.MetaPathFinder):
    """Lets a library that does not load count as one that is not there."""

    def find_spec(self, fullname, path, target=None):
        if fullname != LOADING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _Lenient(fullname, spec.origin)
        return spec


class _Lenient(importlib.machinery.SourceFileLoader):
    def exec_module(self, module) -> None:
        super().exec_module(module)
        strict = getattr(module, "_load_lib", None)
        if strict is None:  # another version
            return

        def load_lib(name: str) -> bool:
            try:
                return strict(name)
            except OSError:
                return False

        module._load_lib = load_lib


def install() -> None:
    """Arrange that torchaudio can be imported; costs nothing where it can anyway."""
    if "torchaudio" not in sys.modules and is_cpu_build():
        sys.meta_path.insert(0, _BeforeLoading())
