"""Textual inversions: files of their own, and those bundled in a LoRA, as tables of tokens.

A vector is one token with one row for all layers; more than one vector are tokens with numbers,
`<cat1> <cat2>`. A P+ inversion (one vector per layer) is one token with its layers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch

from ..errors import FileFormatError
from ..families.unet import ARCHITECTURES
from .tensor_file import check_finite

Tables = dict[str, dict[str, torch.Tensor]]
BUNDLE = re.compile(
    r"bundle_emb\.(?P<word>.+?)\.(?P<part>string_to_param\.\*|emb_params|clip_l|clip_g)"
)
ENCODERS = {"clip_l": "clip_l", "clip_g": "clip_g"}  # other parts are those of CLIP-L
SINGLE = ("emb_params", "string_to_param.*")
WIDTHS = {768: "clip_l", 1280: "clip_g"}
LAYERS = {len(a.layers) for a in ARCHITECTURES.values()}


def split_bundled(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of bundled embeddings that are understood, and all the others."""
    bundled = [name for name in names if BUNDLE.fullmatch(name)]
    return bundled, [name for name in names if not BUNDLE.fullmatch(name)]


def bundled_tables(file: str, tensors: Mapping[str, torch.Tensor]) -> Tables:
    """`bundle_emb.<word>.<part>` -> encoder -> token -> (1, width)."""
    tables: Tables = {}
    for name, tensor in tensors.items():
        found = BUNDLE.fullmatch(name)
        assert found is not None
        encoder = ENCODERS.get(found["part"], "clip_l")
        tables.setdefault(encoder, {}).update(tokens_of(file, found["word"], tensor))
    return tables


def inversion_tables(file: str, word: str, content: object) -> Tables | None:
    """The tables of a textual-inversion file's content; None: it is none.

    content: of a `.safetensors`, or what a pickle held. word: what the file calls it (its name).
    Raises FileFormatError for vectors that cannot be embeddings.
    """
    if not isinstance(content, Mapping):
        return None
    word = content["name"] if isinstance(content.get("name"), str) else word
    own = content.get("string_to_param")
    if isinstance(own, Mapping) and own:  # AUTOMATIC1111
        return {"clip_l": tokens_of(file, word, next(iter(own.values())))}
    tensors = {k: v for k, v in content.items() if isinstance(v, torch.Tensor)}
    for key in SINGLE:
        if key in tensors:
            return {"clip_l": tokens_of(file, word, tensors[key])}
    encoders = {key: tensors[key] for key in ENCODERS if key in tensors}
    if encoders:
        return {key: tokens_of(file, word, tensor) for key, tensor in encoders.items()}
    if tensors and len(tensors) == len(content) and _are_vectors(tensors):  # diffusers
        table: dict[str, torch.Tensor] = {}
        for token, tensor in tensors.items():
            table |= tokens_of(file, token, tensor, layered=True)
        return {WIDTHS.get(next(iter(table.values())).shape[1], "clip_l"): table}
    return None


def may_be_inversion(shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a file's header looks like that of a textual inversion."""
    if set(shapes) & {*SINGLE, *ENCODERS}:
        return True
    return bool(shapes) and all("." not in n and len(s) in (1, 2) for n, s in shapes.items())


def _are_vectors(tensors: Mapping[str, torch.Tensor]) -> bool:
    names = not any("." in name or name.startswith("lora_") for name in tensors)
    return names and all(t.is_floating_point() and t.ndim <= 2 for t in tensors.values())


def tokens_of(
    file: str, word: str, vectors: torch.Tensor, layered: bool = False
) -> dict[str, torch.Tensor]:
    """token -> (rows, width). layered: as many vectors as a model has layers are one token's."""
    if vectors.ndim == 1:
        vectors = vectors[None]
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise FileFormatError(
            f"'{file}': the embedding of '{word}' has shape {tuple(vectors.shape)}; expected "
            "(vectors, width)"
        )
    check_finite(file, f"the embedding of '{word}'", vectors)
    vectors = vectors.detach().float()
    name = re.sub(r"[^\w\-]+", "_", word.strip("<> ")).strip("_") or "concept"
    name = f"_{name}" if name[0].isdigit() else name
    if len(vectors) == 1 or (layered and len(vectors) in LAYERS):
        return {f"<{name}>": vectors}
    between = "_" if name[-1].isdigit() else ""
    return {f"<{name}{between}{i + 1}>": vectors[i : i + 1] for i in range(len(vectors))}
