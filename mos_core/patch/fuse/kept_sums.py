"""Which file holds a concept's sums: a name that changes with all that the sums depend on."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from .rows import Subject

SAMPLES = 256  # values per weight of the base model that go into a name
VERSION = 1  # to be raised when the sums are taken in another way


def sums_path(folder: Path, stage: str, subject: Subject, base: str, facts: dict) -> Path:
    """facts: settings and modules of the stage, JSON-able."""
    digest = hashlib.sha256(json.dumps([VERSION, stage, base, facts], sort_keys=True).encode())
    strengths = subject.strength_model, subject.strength_clip, subject.seed
    digest.update(repr((subject.read, subject.drawn, strengths)).encode())
    for factors in (subject.text, subject.unet):
        for module, pair in sorted(factors.items()):
            digest.update(module.encode())
            digest.update(content([pair.down, pair.up]))
    for token, table in sorted(subject.embeddings.items()):
        digest.update(token.encode() + content([table]))
    return folder / f"{digest.hexdigest()[:32]}.safetensors"


def content(tensors: Iterable[torch.Tensor]) -> bytes:
    """The values themselves, with dtype and shape."""
    digest = hashlib.sha256()
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + flat.numpy().tobytes())
    return digest.digest()


def base_of(model, clip) -> str | None:
    """A hash of MODEL and CLIP as they are; None if other nodes have patched them, because then
    what they compute cannot be told from their weights."""
    for patcher in (model, clip.patcher):
        wrapped = any(patcher.wrappers.values())
        options = [k for k, v in patcher.model_options.items() if v]
        if patcher.patches or patcher.object_patches or wrapped or options:
            return None
    digest = hashlib.sha256(repr(clip.layer_idx).encode())
    for patcher in (clip.patcher, model):
        for name, entries in sorted(patcher.get_key_patches().items()):  # the unpatched weights
            weight = entries[0][0] if isinstance(entries[0], tuple) else entries[0]
            flat = weight.detach().flatten()
            picked = flat[:: max(1, flat.numel() // SAMPLES)]
            digest.update(name.encode() + content([picked]))
    return digest.hexdigest()
