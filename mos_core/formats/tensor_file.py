"""Files of tensors: opened, checked and blamed in one place. What is read is copied: a file that is
replaced while something of it is loaded changes nothing that is loaded.
"""

from __future__ import annotations

import mmap
import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from ..errors import FileFormatError

SAFETENSORS, PICKLE = "safetensors", "pickle"


class TensorFile:
    """A `.safetensors` file whose header has been read.

    shapes: name -> shape, of every tensor; metadata: its `__metadata__`, {} without.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._blamed(), safetensors.safe_open(path, framework="pt", device="cpu") as file:
            self.metadata: Mapping[str, str] = file.metadata() or {}
            self.shapes = {n: tuple(file.get_slice(n).get_shape()) for n in file.keys()}

    @property
    def name(self) -> str:
        return self.path.name

    def read(self, names: Iterable[str] | None = None) -> dict[str, torch.Tensor]:
        """The tensors of these names (all of them), as copies on the CPU; those of a large file are
        views of one buffer."""
        wanted = list(self.shapes if names is None else names)
        with self._blamed(), safetensors.safe_open(self.path, framework="pt", device="cpu") as file:
            return copied({name: file.get_tensor(name) for name in wanted})

    def _blamed(self) -> _Blame:
        return _Blame(self.path.name)


class _Blame:
    """Turns the ways in which reading a file fails into a FileFormatError."""

    def __init__(self, name: str):
        self.name = name

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace) -> None:
        if isinstance(error, (safetensors.SafetensorError, OSError)):
            raise FileFormatError(
                f"'{self.name}' is empty, truncated or damaged ({error}); get it again"
            ) from None


def kind_of(path: Path) -> str:
    """SAFETENSORS or PICKLE, by the first bytes. Raises FileFormatError for anything else."""
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise FileFormatError(f"'{path.name}' cannot be read: {error.strerror}") from None
    if not head:
        raise FileFormatError(f"'{path.name}' is empty; the download or the save failed")
    # Safetensors first: its header's length, as 8 bytes, may begin like a zip or a pickle.
    if head[8:] == b"{" and head[4:8] == bytes(4):
        return SAFETENSORS
    if head[:2] == b"PK" or head[:1] == b"\x80":  # zip of torch.save, or a bare pickle
        return PICKLE
    raise FileFormatError(
        f"'{path.name}' is not a tensor file (.safetensors or .pth); it begins with {head!r}"
    )


def read_pickle(path: Path) -> object:
    """What PyTorch saved there. Weights-only: no code of the file runs. Raises FileFormatError."""
    try:
        with open(path, "rb") as file:  # given a path, PyTorch goes by the ending
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileFormatError(
            f"'{path.name}' holds Python objects other than tensors, or is damaged. Such a pickle "
            "could run code, so it was not opened; get it again, or ask for it as .safetensors"
        ) from None
    except Exception as error:  # the reader of the archive has no common error type
        raise FileFormatError(
            f"'{path.name}' is truncated or damaged ({type(error).__name__}); get it again"
        ) from None


def write_tensors(
    path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> None:
    """Writes a `.safetensors`. Give it to `save_numbered`, which makes it all or nothing."""
    content = {name: own(tensor) for name, tensor in tensors.items()}
    safetensors.torch.save_file(content, path, dict(metadata))


HUGE = 32 << 20
"""Bytes from which copies share one buffer of huge pages: page faults would cost a 200 MB file more
than its copy."""
ALIGNMENT = 64  # bytes; no tensor of the buffer begins inside another one's cache line


def copied(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous copies on the CPU: views of one buffer if they are large (`HUGE`) and the system
    has huge pages, else each with a storage of its own."""
    begins, total = {}, 0
    for name, tensor in tensors.items():
        begins[name] = total
        total += -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT
    buffer = huge_pages(total) if total >= HUGE else None
    if buffer is None:
        return {name: own(tensor) for name, tensor in tensors.items()}
    copies = {}
    with torch.inference_mode(False):
        for name, tensor in tensors.items():
            place = buffer[begins[name] : begins[name] + tensor.nbytes]
            copies[name] = place.view(tensor.dtype).view(tensor.shape).copy_(tensor)
    return copies


def huge_pages(size: int) -> torch.Tensor | None:
    """uint8, [size]: memory of huge pages, where the system has them. It is given back when the
    last tensor that looks into it is gone."""
    if not hasattr(mmap, "MADV_HUGEPAGE"):
        return None
    try:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory.madvise(mmap.MADV_HUGEPAGE)
    except OSError:  # a kernel without them
        return None
    with torch.inference_mode(False):
        return torch.frombuffer(memory, dtype=torch.uint8)


def own(tensor: torch.Tensor) -> torch.Tensor:
    """A contiguous copy with a storage of its own: no view, no shared memory, no mapped file."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", copy=True).contiguous()


def check_finite(name: str, what: str, tensor: torch.Tensor) -> None:
    """Raises FileFormatError unless a tensor holds finite floating-point numbers."""
    if not tensor.is_floating_point():
        raise FileFormatError(
            f"'{name}': {what} is stored as {str(tensor.dtype).removeprefix('torch.')}, expected "
            "floating-point numbers"
        )
    if not is_finite(tensor):
        raise FileFormatError(
            f"'{name}': {what} holds values that are not finite numbers; the training probably "
            "diverged, use an earlier save"
        )


def is_finite(tensor: torch.Tensor) -> bool:
    """Every value is a finite number."""
    exponent = EXPONENTS.get(tensor.dtype)
    if exponent is None:
        wide = tensor if tensor.element_size() > 1 else tensor.float()  # float8 has no isfinite
        return bool(torch.isfinite(wide).all())
    integers, mask = exponent  # all bits of the exponent set: infinity or no number
    return tensor.numel() == 0 or (tensor.view(integers) & mask).amax().item() != mask


EXPONENTS = {
    torch.float16: (torch.int16, 0x7C00),
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float32: (torch.int32, 0x7F800000),
}
