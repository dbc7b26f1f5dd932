"""What the installed PyTorch is built for, read without importing it (ComfyUI wants to be the first
to import it).
"""

from __future__ import annotations

import functools
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

PROBE = (
    "import torch; a = getattr(torch, 'accelerator', None); "
    "mps = torch.backends.mps.is_available(); "
    "print(int(torch.cuda.is_available() or (a.is_available() if a else mps)))"
)


def torch_folder() -> Path:
    """The folder of the installed PyTorch. Raises ModuleNotFoundError where there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("PyTorch is not installed", name="torch")
    return Path(spec.origin).parent


def is_cpu_build() -> bool:
    """Whether PyTorch was built without any accelerator."""
    return sys.platform != "darwin" and cpu_only(
        (torch_folder() / "version.py").read_text(encoding="utf-8")
    )


def cpu_only(version_py: str) -> bool:
    """Whether the text of torch/version.py names no CUDA, ROCm or XPU version."""
    named = re.findall(r"^(?:cuda|hip|rocm|xpu)\b[^=\n]*=\s*(\S+)", version_py, flags=re.MULTILINE)
    return all(value in ("None", "''", '""') for value in named)


@functools.cache
def sees_gpu() -> bool:
    """Whether PyTorch has a device other than the CPU here; asks a process of its own where the
    build allows one.
    """
    if is_cpu_build():
        return False
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    return done.stdout.strip().endswith("1")
