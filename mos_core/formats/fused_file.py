"""A fusion as one `.safetensors`, to share between workflows.

Tensors: `emb.<token>` (layers, text width); `text_encoder.<module>.diff` and `unet.<module>.diff`,
the whole change of a weight, (out, in) or (out, in, 1, 1). Metadata: `format`, `version`,
`architecture`, `base` (fingerprint), `concepts` (JSON: name and tokens, in order), `fusion` (JSON:
settings, strengths, loss per layer).
"""

import json
from pathlib import Path

from ..errors import FileFormatError
from ..families.unet import ARCHITECTURES, comfy_text_key, comfy_unet_key
from ..records import Concept, Fused
from .parts import check_embeddings
from .saving import save_numbered
from .tensor_file import TensorFile, check_finite, write_tensors

FORMAT, VERSION = "mos_fused", 1
EMB, TEXT, UNET, DIFF = "emb.", "text_encoder.", "unet.", ".diff"


def save_fused(fused: Fused, folder: Path, prefix: str) -> Path:
    """Writes `<folder>/<prefix>_00001_.safetensors`, the next free number. Raises SaveError."""
    tensors = {EMB + token: table for c in fused.concepts for token, table in c.embeddings.items()}
    for part, deltas in ((TEXT, fused.text), (UNET, fused.unet)):
        tensors |= {part + module + DIFF: delta for module, delta in deltas.items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": fused.architecture,
        "base": fused.base,
        "concepts": json.dumps([{"name": c.name, "tokens": c.tokens} for c in fused.concepts]),
        "fusion": json.dumps(dict(fused.metadata)),
    }
    return save_numbered(
        folder,
        prefix,
        ".safetensors",
        lambda path: write_tensors(path, tensors, metadata),
    )


def read_fused(path: Path) -> Fused:
    """Reads a fusion. Raises FileFormatError with what was found instead."""
    file = TensorFile(path)
    metadata = file.metadata
    if metadata.get("format") != FORMAT:
        raise FileFormatError(
            f"'{path.name}' is not a fusion of this pack ({len(file.shapes)} tensors, first "
            f"'{next(iter(file.shapes), 'none')}'); concepts are loaded with Load ED-LoRA / LoRA"
        )
    if not metadata.get("version", "").isdecimal() or int(metadata["version"]) > VERSION:
        raise FileFormatError(
            f"'{path.name}' has format version {metadata.get('version')!r}; this pack "
            f"reads up to {VERSION}, so update the pack"
        )
    tensors = file.read()
    try:
        architecture = ARCHITECTURES[metadata["architecture"]]
        concepts = tuple(
            Concept.edlora(
                c["name"], {t: tensors.pop(EMB + t) for t in c["tokens"]}, {}, {}, architecture.name
            )
            for c in json.loads(metadata["concepts"])
        )
        facts, base = json.loads(metadata["fusion"]), metadata["base"]
    except (KeyError, ValueError, TypeError) as error:
        raise FileFormatError(f"'{path.name}': its metadata is damaged ({error!r})") from None
    for concept in concepts:
        check_embeddings(path.name, concept.embeddings)
    parts: dict[str, dict] = {TEXT: {}, UNET: {}}
    for name, tensor in tensors.items():
        part = next((p for p in parts if name.startswith(p) and name.endswith(DIFF)), "")
        module = name.removeprefix(part).removesuffix(DIFF)
        key = comfy_text_key(module) if part == TEXT else comfy_unet_key(module, architecture)
        if not part or key is None or tensor.ndim not in (2, 4):
            raise FileFormatError(f"'{path.name}' holds an unexpected tensor '{name}'")
        check_finite(path.name, f"'{name}'", tensor)
        parts[part][module] = tensor
    return Fused(concepts, parts[TEXT], parts[UNET], architecture.name, base, facts)
