"""Let torchvision be imported beside a PyTorch build that its compiled half does not fit.

torchvision from the package index is built for CUDA. Beside a CPU-only PyTorch its library does not
load, and its Python half then stumbles over two operators that the library would have defined.
ComfyUI imports torchvision but calls neither operator on the way that this pack uses, so declaring
them is enough.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path

from .torch_build import is_cpu_build

SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
OPERATORS = ("nms", "qnms")

_library = None  # a torch.library.Library; the operators live as long as it does


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Declares the operators right before the first import of torchvision; finds nothing itself."""

    def find_spec(self, fullname, path, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            declare_missing()
        return None


def install() -> None:
    """Arrange that torchvision can be imported; costs nothing where it can anyway."""
    if "torchvision" not in sys.modules and is_cpu_build():
        sys.meta_path.insert(0, _BeforeTorchvision())


def declare_missing() -> None:
    """Load torchvision's own operators if its library fits this PyTorch, else declare the two it
    needs to import.
    """
    global _library
    import torch

    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    for library in sorted(Path(spec.origin).parent.glob("_C*")):
        try:
            torch.ops.load_library(str(library))
            return
        except OSError:
            pass
    _library = torch.library.Library("torchvision", "DEF")
    for operator in OPERATORS:
        _library.define(operator + SIGNATURE)
