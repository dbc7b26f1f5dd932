"""What LoRA files say of a module, by algorithm: from the tensors of a file to a delta."""

from .adapter import Adapter
from .ends import ALPHA, BIAS, DORA, DOWN, MAGNITUDE, MID, UP, split_name
from .plain import delta_of_factors, factors_of, plain_delta

__all__ = [
    "ALPHA",
    "BIAS",
    "DORA",
    "DOWN",
    "MAGNITUDE",
    "MID",
    "UP",
    "Adapter",
    "delta_of_factors",
    "factors_of",
    "plain_delta",
    "split_name",
]
