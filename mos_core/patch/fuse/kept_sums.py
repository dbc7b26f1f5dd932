"""Which file holds a concept's sums: a name that changes with all that the sums depend on."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ...deltas import Delta
from .sources import Source

HOST_OBJECTS = {"manual_cast_dtype"}  # object patches that newer ComfyUI has on a fresh CLIP
SAMPLES = 256  # values per weight of the base model that go into a name
VERSION = 2  # to be raised when the sums are taken in another way


def sums_path(folder: Path, stage: str, source: Source, base: str, facts: dict) -> Path:
    """facts: settings and layers of the stage, JSON-able."""
    digest = hashlib.sha256(json.dumps([VERSION, stage, base, facts], sort_keys=True).encode())
    digest.update(repr((source.text, source.picture, source.strengths, source.seed)).encode())
    for deltas in (source.bound.text, source.bound.model):
        for site, delta in sorted(deltas.items(), key=lambda item: repr(item[0])):
            digest.update(repr(site).encode() + content(tensors_in(delta)))
    for encoder, tables in sorted(source.tables.items()):
        for token, table in sorted(tables.items()):
            digest.update(f"{encoder} {token}".encode() + content([table]))
    return folder / f"{digest.hexdigest()[:32]}.safetensors"


def tensors_in(delta: Delta) -> list[torch.Tensor]:
    """All that a delta of any kind is made of, in the order of its fields."""
    found = []
    for part in dataclasses.fields(delta):  # type: ignore[arg-type]
        value = getattr(delta, part.name)
        found += tensors_in(value) if isinstance(value, Delta) else []
        found += [value] if torch.is_tensor(value) else []
    return found


def content(tensors: Iterable[torch.Tensor]) -> bytes:
    """The values themselves, with dtype and shape."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + flat.numpy().tobytes())
    return digest.digest()


def base_of(model: Any, clip: Any) -> str | None:
    """A hash of MODEL and CLIP as they are; None if other nodes have patched them, because then
    what they compute cannot be told from their weights."""
    for patcher in (model, clip.patcher):
        wrapped = any(patcher.wrappers.values())
        options = [k for k, v in patcher.model_options.items() if v]
        objects = set(patcher.object_patches) - HOST_OBJECTS
        if patcher.patches or objects or wrapped or options:
            return None
    digest = hashlib.sha256(repr(clip.layer_idx).encode())
    for patcher in (clip.patcher, model):
        for name, entries in sorted(patcher.get_key_patches().items()):  # the unpatched weights
            weight = entries[0][0] if isinstance(entries[0], tuple) else entries[0]
            flat = weight.detach().flatten()
            picked = flat[:: max(1, flat.numel() // SAMPLES)]
            digest.update(name.encode() + content([picked]))
    return digest.hexdigest()
