"""What can go wrong in a user's hands. Every message says what was found and what to do next."""

import difflib
from collections.abc import Iterable


class MosError(ValueError):
    """Base of all errors that the pack raises on purpose."""


class FileFormatError(MosError):
    """A file is empty, damaged, unsafe, or not what it was taken for."""


class ArchitectureError(MosError):
    """A concept and a model do not fit together."""


class ConceptTokenError(MosError):
    """A concept token is unknown, malformed, or claimed twice."""


class RegionError(MosError):
    """A region or a layout cannot be used as it is."""


class SamplerError(MosError):
    """A sampler cannot be used for what was asked."""


class TrainError(MosError):
    """Training cannot start, or had to stop."""


class FuseError(MosError):
    """Concepts cannot be fused as asked."""


class SaveError(MosError):
    """A result cannot be written where it was asked for."""


def nearest_names(name: str, known: Iterable[str], limit: int = 3) -> str:
    """The known names most like `name`, for an error message: "'<a1>', '<a2>'", or "none"."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.4) or known[:limit]
    return ", ".join(f"'{n}'" for n in near) or "none"
