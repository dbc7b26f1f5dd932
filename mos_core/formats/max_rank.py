"""A LoRA cut down to a smaller rank, and how much of it that keeps."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..adapters import BIAS, DOWN, UP, Adapter, plain_delta
from ..deltas import Delta, LowRank, cut
from ..records import Concept

Part = Delta | Adapter


def cut_concept(concept: Concept, rank: int) -> tuple[Concept, str]:
    """The concept with every delta at most of that rank, and a line for a report ("" if all were).

    What depends on the base weight (DoRA, OFT, GLoRA) and what is no matrix stay as they are.
    """
    deltas: dict[str, Part] = {}
    shares, whole = [], 0
    for name, delta in concept.deltas.items():
        if not _is_matrix(delta):
            deltas[name] = delta
            whole += isinstance(delta, Adapter) and delta.needs_base
            continue
        plain = plain_delta(delta) if isinstance(delta, Adapter) else delta
        smaller, kept = cut(plain, rank)
        deltas[name] = delta if smaller is plain else _as_file(delta, smaller)
        if smaller is not plain:
            shares.append(kept)
    if not shares and not whole:
        return concept, ""
    words = []
    if shares:
        mean = sum(shares) / len(shares)
        words.append(
            f"cut to rank {rank}: {len(shares)} layers, {mean:.1%} of the change is kept on "
            f"average, {min(shares):.1%} in the worst layer (squared norm)"
        )
    if whole:
        words.append(f"not cut: {whole} layers that depend on the base weight (DoRA, OFT, GLoRA)")
    return replace(concept, deltas=deltas), "\n".join(words)


def _is_matrix(delta: Part) -> bool:
    if not isinstance(delta, Adapter):
        return True
    matrix = delta.algorithm in ("LoRA", "LoHa", "LoKr", "full") and delta.shape[1] is not None
    return matrix and not delta.needs_base


def _as_file(old: Part, new: Delta) -> Adapter:
    assert isinstance(new, LowRank)
    tensors: dict[str, torch.Tensor] = {DOWN: new.down, UP: new.up}
    if isinstance(old, Adapter) and BIAS in old.tensors:
        tensors[BIAS] = old.tensors[BIAS]
    return Adapter("LoRA", tensors)
