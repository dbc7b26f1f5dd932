"""What is added to a weight: one class per kind, the same few operations for all.

`delta` (out, in) is what a layer's weight W0 gets: `W = W0 + delta`. A method never asks of which
kind a delta is: training and injection put rows through it (`on_rows`), fusion multiplies it with
Gram matrices (`times`), merging and saving ask for the whole (`matrix`).
"""

from .convolution import Convolution, WithBias
from .decomposed import Decomposed
from .delta import Delta
from .kronecker import Kronecker
from .low_rank import LowRank, cut, hadamard, svd_of_product
from .whole import Whole

__all__ = [
    "Convolution",
    "Decomposed",
    "Delta",
    "Kronecker",
    "LowRank",
    "Whole",
    "WithBias",
    "cut",
    "hadamard",
    "svd_of_product",
]
