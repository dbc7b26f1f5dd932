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
from .parts import build_concept, describe_lora, flatten_factors, own

FORMAT, VERSION = "mos_edlora", 1
EMB, TEXT, UNET, RESUME = "emb.", "text_encoder.", "unet.", "resume."


def read_safetensors(path: Path) -> Concept:
    """Reads one of our concept files. Raises FileFormatError."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            check_metadata(path.name, metadata, list(file.keys()))
            # copies: a tensor of the file would break when somebody replaces the file
            tensors = {key: own(file.get_tensor(key)) for key in file.keys()}
    except (safetensors.SafetensorError, OSError) as error:
        raise FileFormatError(
            f"'{path.name}' is truncated or damaged ({error}); get it again"
        ) from None
    try:
        order = [str(token) for token in json.loads(metadata["tokens"])]
        training = dict(json.loads(metadata.get("training", "{}")))
    except (KeyError, ValueError, TypeError, RecursionError):
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


def check_metadata(name: str, metadata: dict, keys: list[str]) -> None:
    """Raises FileFormatError unless the file says that it is one of ours that we can read."""
    if metadata.get("format") != FORMAT:
        raise FileFormatError(describe_foreign(name, metadata, keys))
    version = metadata.get("version", "")
    if version not in map(str, range(1, VERSION + 1)):
        raise FileFormatError(
            f"'{name}' is an ED-LoRA of format version {version[:20]!r}; this pack reads up to "
            f"{VERSION}, so update the pack"
        )


def describe_foreign(name: str, metadata: dict, keys: list[str]) -> str:
    """What a safetensors file is instead of an ED-LoRA of ours, and what to load it with."""
    if "mos_miniature" in metadata or any(k.startswith("model.diffusion_model.") for k in keys):
        return f"'{name}' is a checkpoint, not a concept; load it with a checkpoint loader"
    if any(k.startswith("new_concept_embedding.") for k in keys):
        return (
            f"'{name}' holds an ED-LoRA's tensors without this pack's metadata; load the .pth that "
            "it was converted from"
        )
    if any(".lora_" in k or "lora_unet_" in k or k.endswith(".alpha") for k in keys):
        return describe_lora(name)
    return f"'{name}' is not an ED-LoRA: {len(keys)} tensors, first '{next(iter(keys), 'nothing')}'"


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
    safetensors.torch.save_file({k: own(t) for k, t in tensors.items()}, path, metadata)
