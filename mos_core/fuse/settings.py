"""The settings of one fusion; defaults are the published ones (Mix-of-Show, section 4.1)."""

import dataclasses
from dataclasses import dataclass

from ..errors import MosError

SOLVERS = ("exact", "lbfgs", "sum")
PROMPTS = ("photo of a {}", "{}")  # what the text stages see of a concept
TEXT_ROWS = ("concept tokens", "all tokens")
DRAWN = "photo of a {}"  # what the spatial stage draws


class FuseError(MosError):
    """Concepts cannot be fused as asked."""


@dataclass(frozen=True)
class FuseSettings:
    solver: str = "exact"  # one of SOLVERS
    ridge: float = 0.0  # relative to the mean eigenvalue of a layer's G
    steps: int = 20
    width: int = 512
    height: int = 512
    seed: int = 0
    text_rows: str = "concept tokens"  # one of TEXT_ROWS; the first is the published choice

    def check(self) -> None:
        """Raises FuseError for a value out of its range."""
        if self.solver not in SOLVERS:
            raise FuseError(f"solver is {self.solver!r}; choose one of {SOLVERS}")
        if self.text_rows not in TEXT_ROWS:
            raise FuseError(f"text_rows is {self.text_rows!r}; choose one of {TEXT_ROWS}")
        if not 0 <= self.ridge <= 1e6 or not 1 <= self.steps <= 1000:
            raise FuseError("ridge must be between 0 and 1e6, steps between 1 and 1000")
        if min(self.width, self.height) < 64 or self.width % 8 or self.height % 8:
            raise FuseError("width and height must be at least 64 and multiples of 8")

    def as_metadata(self) -> dict:
        return dataclasses.asdict(self)
