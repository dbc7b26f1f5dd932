"""The reference's numbers in tests/golden: where they are and how they are read."""

import json
from functools import cache
from pathlib import Path

import safetensors.torch
import torch

GOLDEN = Path(__file__).absolute().parents[1] / "golden" / "mix_of_show"
CONCEPTS = ("a", "b", "c", "v")  # a, b, c: attention only; v: feed-forward and 1x1 convolutions too
EMBEDDING, TEXT, UNET = "new_concept_embedding", "text_encoder", "unet"


@cache
def read_meta(name: str = "meta.json") -> dict:
    return json.loads((GOLDEN / name).read_text())


@cache
def read_tensors(name: str) -> dict[str, torch.Tensor]:
    """All tensors of a golden safetensors file; shared, so they are not to be written to."""
    return safetensors.torch.load_file(GOLDEN / f"{name}.safetensors")


def read_parts(name: str) -> dict[str, dict[str, torch.Tensor]]:
    """A golden ED-LoRA that was stored flat (`<part>.<key>`): part -> key -> tensor."""
    parts: dict[str, dict] = {EMBEDDING: {}, TEXT: {}, UNET: {}}
    for key, tensor in read_tensors(name).items():
        part, _, rest = key.partition(".")
        parts[part][rest] = tensor
    return parts


def strength_key(alpha: float) -> str:
    """As in the golden tensor names: 0 -> 'alpha0', 0.7 -> 'alpha0.7', 1 -> 'alpha1'."""
    return f"alpha{alpha:g}"


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute difference over the largest expected value."""
    assert found.shape == expected.shape, f"{tuple(found.shape)} is not {tuple(expected.shape)}"
    return ((found - expected).abs().max() / expected.abs().max()).item()
