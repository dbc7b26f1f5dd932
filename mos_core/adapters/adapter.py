"""The tensors of one module in a LoRA file, and which algorithm they belong to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from .ends import (
    ALPHA,
    BIAS,
    DIFF,
    DORA,
    DOWN,
    GLORA,
    HADA,
    HADA_TUCKER,
    LOKR,
    MAGNITUDE,
    MID,
    NORM,
    NORM_BIAS,
    OFT,
    OFT_V2,
    RESCALE,
    RESHAPE,
    SET,
    UP,
)

# Algorithm -> (ends that it must have, ends that it may have). The first whose first end is there.
ALGORITHMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "LoRA": ((UP, DOWN), (MID, ALPHA, DORA, MAGNITUDE, RESHAPE, BIAS)),
    "LoHa": (HADA, (*HADA_TUCKER, ALPHA, DORA, BIAS)),
    "LoKr": ((), (*LOKR, ALPHA, DORA, BIAS)),
    "GLoRA": (GLORA, (ALPHA, DORA, BIAS)),
    "OFT": ((OFT,), (RESCALE, ALPHA, DORA, BIAS)),
    "OFT of rows": ((OFT_V2,), (BIAS,)),
    "full": ((DIFF,), (BIAS, ALPHA)),
    "set": ((SET,), (BIAS, ALPHA)),
    "norm": ((NORM,), (NORM_BIAS, ALPHA)),
    "bias": ((BIAS,), ()),
}


@dataclass(frozen=True, eq=False)
class Adapter:
    """What a file says of one module: {end of the name (`ends.OWN`): tensor as stored}.

    Complete: `algorithm_of` has found what its algorithm needs.
    """

    algorithm: str
    tensors: Mapping[str, torch.Tensor]

    def get(self, end: str) -> torch.Tensor | None:
        return self.tensors.get(end)

    @property
    def needs_base(self) -> bool:
        """Its delta depends on the weight that it is put on."""
        decomposed = DORA in self.tensors or MAGNITUDE in self.tensors
        return decomposed or self.algorithm in ("GLoRA", "OFT", "OFT of rows", "set")

    @property
    def kind(self) -> str:
        """As a report names it: 'LoRA', 'LoKr with DoRA'."""
        decomposed = DORA in self.tensors or MAGNITUDE in self.tensors
        name = "BOFT" if self.algorithm == "OFT" and self.tensors[OFT].ndim == 4 else self.algorithm
        return f"{name} with DoRA" if decomposed else name

    @property
    def rank(self) -> int:
        """Of its factors; 0 where it has none."""
        t = self.tensors
        if self.algorithm == "LoRA":
            return t[DOWN].shape[0]
        if self.algorithm == "LoHa":
            return t[HADA[1]].shape[0] * t[HADA[3]].shape[0]
        if self.algorithm == "LoKr":
            return (self.rank_of_factors or 0) * (
                1 if t.get(LOKR[0]) is None else min(t[LOKR[0]].shape)
            )
        return min(t[GLORA[0]].shape[:2]) if self.algorithm == "GLoRA" else 0

    @property
    def rank_of_factors(self) -> int | None:
        """What alpha is divided by, as ComfyUI does; None: alpha has no effect."""
        t = self.tensors
        if self.algorithm == "LoRA":
            return t[DOWN].shape[0]
        if self.algorithm == "LoHa":
            return t[HADA[1]].shape[0]
        if self.algorithm == "LoKr":
            right, left = t.get(".lokr_w2_b"), t.get(".lokr_w1_b")
            inner = right if ".lokr_w2" not in t else left if ".lokr_w1" not in t else None
            return None if inner is None else inner.shape[0]
        return None

    @property
    def scale(self) -> float:
        """alpha / rank; 1 without an alpha."""
        alpha, rank = self.get(ALPHA), self.rank_of_factors
        return 1.0 if alpha is None or not rank else alpha.item() / rank

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """(out, in * kernel) of the weight that it was made for; None where the tensors do not
        say."""
        t = self.tensors
        if self.algorithm == "LoRA":
            inner = prod(t[DOWN].shape[1:]) * (prod(t[MID].shape[2:]) if MID in t else 1)
            return t[UP].shape[0], inner
        if self.algorithm == "LoHa":
            if HADA_TUCKER[0] in t:
                return t[HADA[0]].shape[1], t[HADA[1]].shape[1] * prod(t[HADA_TUCKER[0]].shape[2:])
            return t[HADA[0]].shape[0], t[HADA[1]].shape[1]
        if self.algorithm == "LoKr":
            (o1, i1), (o2, i2) = self.kronecker_shapes
            return o1 * o2, i1 * i2
        if self.algorithm == "GLoRA":
            return self._glora_shape()
        if self.algorithm == "OFT":
            return prod(t[OFT].shape[-3:-1]), None
        if self.algorithm in ("full", "set"):
            whole = t[DIFF] if self.algorithm == "full" else t[SET]
            return (whole.shape[0], prod(whole.shape[1:])) if whole.ndim > 1 else (len(whole), None)
        return None, None

    @property
    def kronecker_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Of LoKr's two factors, kernels flattened."""
        t = self.tensors
        left = t.get(".lokr_w1")
        if left is None:
            left = torch.empty(t[".lokr_w1_a"].shape[0], t[".lokr_w1_b"].shape[1], device="meta")
        right = t.get(".lokr_w2")
        if right is not None:
            return tuple(left.shape[:2]), (right.shape[0], prod(right.shape[1:]))
        core = t.get(".lokr_t2")
        out = t[".lokr_w2_a"].shape[0 if core is None else 1]
        cells = 1 if core is None else prod(core.shape[2:])
        return tuple(left.shape[:2]), (out, prod(t[".lokr_w2_b"].shape[1:]) * cells)

    def _glora_shape(self) -> tuple[int, int]:
        a1, a2, b1, b2 = (self.tensors[end] for end in GLORA)
        new = (
            b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
        )  # LyCORIS 1 wrote it otherwise
        return (b1.shape[0], prod(b2.shape[1:])) if new else (b2.shape[0], prod(b1.shape[1:]))


def algorithm_of(ends: set[str]) -> str | None:
    """The algorithm that tensors with these ends belong to; None: of none."""
    for name, (needed, _) in ALGORITHMS.items():
        if name == "LoKr":
            if ends & set(LOKR):
                return name
        elif ends & set(needed):
            return name
    return None


def missing_ends(algorithm: str, ends: set[str]) -> tuple[str, ...]:
    """What the algorithm needs and these ends do not have."""
    if algorithm != "LoKr":
        return tuple(end for end in ALGORITHMS[algorithm][0] if end not in ends)
    missing = []
    for whole in (".lokr_w1", ".lokr_w2"):
        if whole not in ends:
            parts = (f"{whole}_a", f"{whole}_b")
            missing += [end for end in parts if end not in ends] if ends & set(parts) else [whole]
    return tuple(missing)


def spare_ends(algorithm: str, ends: set[str]) -> tuple[str, ...]:
    """Which of these ends the algorithm has no use for."""
    needed, optional = ALGORITHMS[algorithm]
    return tuple(sorted(ends - {*needed, *optional}))
