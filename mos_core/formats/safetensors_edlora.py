"""Our ED-LoRA file: one `.safetensors`.

Tensors: `emb.<token>` (layers, text width); `text_encoder.<module>.lora_down.weight` (rank, in),
`...lora_up.weight` (out, rank) and the same under `unet.`, with diffusers module names. No alpha:
`W = W0 + strength * up @ down`. An unfinished training keeps its optimizer moments under `resume.`.
Metadata: `format`, `version`, `architecture`, `tokens` (JSON list, in order),
`rank`, `training` (JSON object).
"""

import json
from dataclasses import replace
from pathlib import Path

import safetensors
import safetensors.torch

from ..errors import FileFormatError
from ..records import Concept
from .parts import build_concept, flatten_factors

FORMAT, VERSION = "mos_edlora", 1
EMB, TEXT, UNET, RESUME = "emb.", "text_encoder.", "unet.", "resume."


def read_safetensors(path: Path) -> Concept:
    """Reads one of our concept files. Raises FileFormatError."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise FileFormatError(
            f"'{path.name}' is truncated or damaged ({error}); get it again"
        ) from None
    if metadata.get("format") != FORMAT:
        raise FileFormatError(describe_foreign(path.name, tensors, metadata))
    version = metadata.get("version", "")
    if not version.isdecimal() or int(version) > VERSION:
        raise FileFormatError(
            f"'{path.name}' is an ED-LoRA of format version {version!r}; this pack reads up to "
            f"{VERSION}, so update the pack"
        )
    try:
        order = [str(token) for token in json.loads(metadata["tokens"])]
        training = json.loads(metadata.get("training", "{}"))
    except (KeyError, ValueError, TypeError):
        raise FileFormatError(f"'{path.name}': its metadata is damaged; get it again") from None
    parts: dict[str, dict] = {EMB: {}, TEXT: {}, UNET: {}, RESUME: {}}
    for key, tensor in tensors.items():
        prefix = next((p for p in parts if key.startswith(p)), None)
        if prefix is None:
            raise FileFormatError(f"'{path.name}' holds an unknown tensor '{key}'")
        parts[prefix][key.removeprefix(prefix)] = tensor
    if sorted(order) != sorted(parts[EMB]):
        raise FileFormatError(
            f"'{path.name}': its metadata names the tokens {order}, its tensors {[*parts[EMB]]}"
        )
    embeddings = {token: parts[EMB][token] for token in order}
    concept = build_concept(path.stem, embeddings, parts[TEXT], parts[UNET], training)
    return replace(concept, resume=parts[RESUME] or None)


def describe_foreign(name: str, tensors: dict, metadata: dict) -> str:
    """What a safetensors file is instead of an ED-LoRA of ours, and what to load it with."""
    if "mos_miniature" in metadata or any(k.startswith("model.diffusion_model.") for k in tensors):
        return f"'{name}' is a checkpoint, not a concept; load it with a checkpoint loader"
    if any(".lora_" in k or "lora_unet_" in k or k.endswith(".alpha") for k in tensors):
        return (
            f"'{name}' is an ordinary LoRA without layer-wise concept embeddings; load it with "
            "ComfyUI's own Load LoRA node"
        )
    first = next(iter(tensors), "nothing")
    return f"'{name}' is not an ED-LoRA: {len(tensors)} tensors, first '{first}'"


def write_safetensors(concept: Concept, path: Path) -> None:
    """Writes `path` in our layout; the tensors are the concept's, bit for bit."""
    tensors = {EMB + token: table for token, table in concept.embeddings.items()}
    tensors |= flatten_factors(concept.text, TEXT) | flatten_factors(concept.unet, UNET)
    tensors |= {RESUME + name: moment for name, moment in (concept.resume or {}).items()}
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "architecture": concept.architecture,
        "tokens": json.dumps(list(concept.tokens)),
        "rank": str(concept.rank),
        "training": json.dumps(dict(concept.metadata)),
    }
    safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, path, metadata)
