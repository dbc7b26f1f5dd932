"""A fusion as one `.safetensors`, to share between workflows.

Version 1, Stable Diffusion 1.5: `emb.<token>` (layers, text width); `text_encoder.<module>.diff`
and `unet.<module>.diff`, the whole change of a weight, (out, in) or (out, in, rows, columns), with
diffusers module names. Version 2, any model: `emb.<encoder>.<token>`, and modules of other encoders
and models by ComfyUI's own names; weights may be packed (packed.py). What fits version 1 is written
as version 1.

Metadata: `format`, `version`, `architecture`, `base` (fingerprint), `concepts` (JSON: name and
tokens, in order; version 2 also words and tokens by encoder), `fusion` (JSON: settings, strengths,
loss per layer).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import FileFormatError
from ..families.unet import SD15, comfy_text_key, comfy_unet_key
from ..records import Concept, Fused
from .packed import unpack
from .parts import check_embeddings
from .saving import save_numbered
from .tensor_file import TensorFile, check_finite, write_tensors

FORMAT, VERSION = "mos_fused", 2
EMB, TEXT, UNET, DIFF = "emb.", "text_encoder.", "unet.", ".diff"
FIRST = "clip_l"  # the text encoder of version 1
Tensors = dict[str, torch.Tensor]


def save_fused(fused: Fused, folder: Path, prefix: str) -> Path:
    """Writes `<folder>/<prefix>_00001_.safetensors`, the next free number. Raises SaveError."""
    first = is_first_version(fused)
    tensors = {
        f"{EMB}{token}" if first else f"{EMB}{encoder}.{token}": table
        for concept in fused.concepts
        for encoder, own in concept.tables.items()
        for token, table in own.items()
    }
    for part, deltas in ((TEXT, fused.text), (UNET, fused.unet)):
        tensors |= {part + module + DIFF: delta for module, delta in deltas.items()}
    metadata = {
        "format": FORMAT,
        "version": "1" if first else str(VERSION),
        "architecture": fused.architecture,
        "base": fused.base,
        "concepts": json.dumps([described(c, first) for c in fused.concepts]),
        "fusion": json.dumps(dict(fused.metadata)),
    }
    return save_numbered(
        folder,
        prefix,
        ".safetensors",
        lambda path: write_tensors(path, tensors, metadata),
    )


def is_first_version(fused: Fused) -> bool:
    """Whether version 1 of the file, which the pack reads since 0.1.0, can hold the fusion."""
    return (
        fused.architecture == SD15.name
        and all(set(c.tables) == {FIRST} and c.words == c.tokens for c in fused.concepts)
        and all(is_first(TEXT, module) for module in fused.text)
        and all(is_first(UNET, module) for module in fused.unet)
    )


def described(concept: Concept, first: bool) -> dict:
    """A concept's entry in the metadata; first: as version 1 has it."""
    known = {"name": concept.name, "tokens": concept.tokens}
    if first:
        return known
    encoders = {encoder: list(own) for encoder, own in concept.tables.items()}
    return {**known, "words": list(concept.words), "encoders": encoders}


def read_fused(path: Path) -> Fused:
    """Reads a fusion. Raises FileFormatError with what was found instead."""
    file = TensorFile(path)
    check_version(file)
    metadata, tensors = file.metadata, unpack(file.name, file.read())
    try:
        family = metadata["architecture"]
        concepts = tuple(
            concept_of(entry, tensors, family) for entry in json.loads(metadata["concepts"])
        )
        facts, base = json.loads(metadata["fusion"]), metadata["base"]
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"'{path.name}': its metadata is damaged ({error!r})") from None
    for concept in concepts:
        for own in concept.tables.values():
            check_embeddings(path.name, own)
    first = metadata["version"] == "1"
    parts: dict[str, Tensors] = {TEXT: {}, UNET: {}}
    for name, tensor in tensors.items():
        part = next((p for p in parts if name.startswith(p) and name.endswith(DIFF)), "")
        module = name.removeprefix(part).removesuffix(DIFF)
        if not part or tensor.ndim not in (2, 4) or (first and not is_first(part, module)):
            raise FileFormatError(f"'{path.name}' holds an unexpected tensor '{name}'")
        check_finite(path.name, f"'{name}'", tensor)
        parts[part][module] = tensor
    return Fused(concepts, parts[TEXT], parts[UNET], family, base, facts)


def check_version(file: TensorFile) -> None:
    """Raises FileFormatError for a file that is no fusion, or of a newer pack."""
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"'{file.name}' is not a fusion of this pack ({len(file.shapes)} tensors, first "
            f"'{next(iter(file.shapes), 'none')}'); concepts are loaded with Load ED-LoRA / LoRA"
        )
    if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > VERSION:
        raise FileFormatError(
            f"'{file.name}' has format version {metadata.get('version')!r}; this pack "
            f"reads up to {VERSION}, so update the pack"
        )


def concept_of(entry: Mapping, tensors: Tensors, family: str) -> Concept:
    """A concept's words and embeddings, which are taken out of `tensors`."""
    if "encoders" not in entry:
        tables = {token: tensors.pop(EMB + token) for token in entry["tokens"]}
        return Concept.edlora(entry["name"], tables, {}, {}, family)
    by_encoder = {
        str(encoder): {str(token): tensors.pop(f"{EMB}{encoder}.{token}") for token in tokens}
        for encoder, tokens in entry["encoders"].items()
    }
    words = tuple(str(word) for word in entry["words"])
    return Concept(str(entry["name"]), words, by_encoder, {}, family)


def is_first(part: str, module: str) -> bool:
    """Whether version 1 knows a module of that name."""
    key = comfy_text_key(module) if part == TEXT else comfy_unet_key(module, SD15)
    return key is not None
