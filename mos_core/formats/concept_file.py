"""Any concept file: told apart by its first bytes, saved atomically and never over another."""

from collections.abc import Callable
from pathlib import Path

from ..errors import FileFormatError
from ..records import Concept
from .reference_pth import read_reference, write_reference
from .safetensors_edlora import read_safetensors, write_safetensors
from .saving import save_numbered

WRITERS: dict[str, tuple[str, Callable[[Concept, Path], None]]] = {
    "safetensors": (".safetensors", write_safetensors),
    "reference pth": (".pth", write_reference),
}


def read_concept(path: str | Path) -> Concept:
    """Reads a concept from our `.safetensors` or the reference's `.pth`, whatever its ending.

    Raises FileFormatError with what was found and what to do.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            head = file.read(9)
    except OSError as error:
        raise FileFormatError(f"'{path.name}' cannot be read: {error.strerror}") from None
    if not head:
        raise FileFormatError(f"'{path.name}' is empty; the download or the save failed")
    # Safetensors first: its header's length, as 8 bytes, may begin like a zip or a pickle.
    if head[8:] == b"{" and head[4:8] == bytes(4):
        return read_safetensors(path)
    if head[:2] == b"PK" or head[:1] == b"\x80":  # zip of torch.save, or a bare pickle
        return read_reference(path)
    raise FileFormatError(
        f"'{path.name}' is not a tensor file (.safetensors or .pth); it begins with {head!r}"
    )


def save_concept(concept: Concept, folder: Path, prefix: str, layout: str = "safetensors") -> Path:
    """Writes the concept to `<folder>/<prefix>_00001_.<ending>`, the next free number.

    layout: a key of WRITERS. Raises SaveError; leaves nothing behind when it fails.
    """
    ending, write = WRITERS[layout]
    return save_numbered(folder, prefix, ending, lambda path: write(concept, path))
