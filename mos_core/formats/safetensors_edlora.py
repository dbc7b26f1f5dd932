"""Our concept file: one `.safetensors`, of two versions.

Version 1, an ED-LoRA of one text encoder: `emb.<token>` (layers, text width);
`text_encoder.<module>.lora_down.weight` (rank, in), `...lora_up.weight` (out, rank) and the same
under `unet.`, with diffusers module names and no alpha: `W = W0 + strength * up @ down`.

Version 2, any concept: `emb.<encoder>.<token>` (rows, width), and every delta under its module's
name as the concept has it, with ComfyUI's endings. Such a file is an ordinary LoRA as well: other
programs read its deltas. What fits version 1 is written as version 1.

An unfinished training keeps its optimizer moments under `resume.`. Metadata: `format`, `version`,
`architecture`, `tokens` (JSON list, in order), `rank`, `training` (JSON object); version 2 also
`words` (JSON list) and `encoders` (JSON: encoder -> tokens).
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..adapters import DOWN, UP, Adapter, delta_of_factors, factors_of
from ..adapters.ends import DIFF
from ..deltas import Delta, LowRank
from ..errors import FileFormatError
from ..families.unet import ARCHITECTURES, comfy_text_key, comfy_unet_key
from ..records import TEXT_PART, UNET_PART, Concept
from .lora_file import build_lora
from .parts import build_concept, check_embeddings
from .tensor_file import TensorFile, check_finite, write_tensors

FORMAT, VERSION = "mos_edlora", 2
EMB, TEXT, UNET, RESUME = "emb.", TEXT_PART, UNET_PART, "resume."


def read_safetensors(path: Path) -> Concept:
    """Reads one of our concept files. Raises FileFormatError."""
    return read_own(TensorFile(path))


def read_own(file: TensorFile) -> Concept:
    """Reads one of our concept files, whose header is read. Raises FileFormatError."""
    check_metadata(file.name, file.metadata, list(file.shapes))
    read = _read_first if file.metadata["version"] == "1" else _read_second
    return read(file)


def _read_first(file: TensorFile) -> Concept:
    order = [str(token) for token in _json(file, "tokens", list)]
    training = _json(file, "training", dict, "{}")
    parts: dict[str, dict] = {EMB: {}, TEXT: {}, UNET: {}, RESUME: {}}
    for key, tensor in file.read().items():
        prefix = next((p for p in parts if key.startswith(p)), None)
        if prefix is None:
            raise FileFormatError(f"'{file.name}' holds an unknown tensor '{key}'")
        parts[prefix][key.removeprefix(prefix)] = tensor
    if sorted(order) != sorted(parts[EMB]):
        raise FileFormatError(
            f"'{file.name}': its metadata names the tokens {order}, its tensors {[*parts[EMB]]}"
        )
    embeddings = {token: parts[EMB][token] for token in order}
    concept = build_concept(file.path.stem, embeddings, parts[TEXT], parts[UNET], training)
    return replace(concept, resume=parts[RESUME] or None)


def _read_second(file: TensorFile) -> Concept:
    encoders, words = _json(file, "encoders", dict), _json(file, "words", list)
    training = _json(file, "training", dict, "{}")
    tensors = file.read()
    try:
        tables = {
            str(encoder): {str(token): tensors.pop(f"{EMB}{encoder}.{token}") for token in tokens}
            for encoder, tokens in encoders.items()
        }
    except (KeyError, TypeError) as error:
        raise FileFormatError(f"'{file.name}': the embedding {error} is missing") from None
    for table in tables.values():
        check_embeddings(file.name, table)
    resume = {n.removeprefix(RESUME): t for n, t in tensors.items() if n.startswith(RESUME)}
    for name, moment in resume.items():
        check_finite(file.name, f"'{RESUME}{name}'", moment)
    rest = {n: t for n, t in tensors.items() if not n.startswith((EMB, RESUME))}
    deltas: Mapping[str, Delta | Adapter] = {}
    if rest:
        deltas = build_lora(file.name, file.path.stem, rest, {}).deltas
    return Concept(
        file.path.stem,
        tuple(str(word) for word in words),
        tables,
        {name: _as_trained(delta) for name, delta in deltas.items()},
        file.metadata.get("architecture") or None,
        training,
        resume or None,
    )


def _as_trained(delta: Delta | Adapter) -> Delta | Adapter:
    pair = factors_of(delta)
    return delta if pair is None else delta_of_factors(pair.down, pair.up)


def _json(file: TensorFile, key: str, kind: type, default: str | None = None):
    text = file.metadata.get(key, default)
    try:
        return kind(json.loads(text if text is not None else ""))
    except (ValueError, TypeError, RecursionError):
        raise FileFormatError(f"'{file.name}': its metadata is damaged; get it again") from None


def check_metadata(name: str, metadata: Mapping[str, str], keys: list[str]) -> None:
    """Raises FileFormatError unless the file says that it is one of ours that we can read."""
    if metadata.get("format") != FORMAT:
        raise FileFormatError(describe_foreign(name, metadata, keys))
    version = metadata.get("version", "")
    if version not in map(str, range(1, VERSION + 1)):
        raise FileFormatError(
            f"'{name}' is a concept of format version {version[:20]!r}; this pack reads up to "
            f"{VERSION}, so update the pack"
        )


def describe_foreign(name: str, metadata: Mapping[str, str], keys: list[str]) -> str:
    """What a safetensors file is instead of a concept or a LoRA, and what to load it with."""
    if "mos_miniature" in metadata or any(k.startswith("model.diffusion_model.") for k in keys):
        return f"'{name}' is a checkpoint, not a concept; load it with a checkpoint loader"
    if metadata.get("format") == "mos_fused":
        return f"'{name}' is a fusion of several concepts; load it with Load Fused Concepts"
    if any(k.startswith("new_concept_embedding.") for k in keys):
        return (
            f"'{name}' holds an ED-LoRA's tensors without this pack's metadata; load the .pth that "
            "it was converted from"
        )
    first = f"{len(keys)} tensors, first '{next(iter(keys), 'nothing')}'"
    return f"'{name}' is neither a concept nor a LoRA nor a textual inversion: {first}"


def is_first_version(concept: Concept) -> bool:
    """Whether version 1 of the file, which the pack reads since 0.1.0, can hold the concept."""
    architecture = ARCHITECTURES.get(concept.family or "")
    if (
        architecture is None
        or list(concept.tables) != ["clip_l"]
        or concept.words != concept.tokens
    ):
        return False
    tables = concept.embeddings.values()
    if {len(table) for table in tables} != {len(architecture.layers)}:
        return False
    return all(
        isinstance(delta, LowRank)
        and (
            comfy_text_key(name.removeprefix(TEXT)) is not None
            if name.startswith(TEXT)
            else comfy_unet_key(name.removeprefix(UNET), architecture) is not None
        )
        for name, delta in concept.deltas.items()
    )


def write_safetensors(concept: Concept, path: Path) -> None:
    """Writes `path` in our layout; the tensors are the concept's, bit for bit."""
    first = is_first_version(concept)
    tensors: dict[str, torch.Tensor] = {}
    for encoder, table in concept.tables.items():
        start = EMB if first else f"{EMB}{encoder}."
        tensors |= {start + token: rows for token, rows in table.items()}
    for name, delta in concept.deltas.items():
        tensors |= {name + end: tensor for end, tensor in tensors_of(delta).items()}
    tensors |= {RESUME + name: moment for name, moment in (concept.resume or {}).items()}
    metadata = {
        "format": FORMAT,
        "version": "1" if first else str(VERSION),
        "architecture": concept.family or "",
        "tokens": json.dumps(list(concept.tokens)),
        "rank": str(concept.rank),
        "training": json.dumps(dict(concept.metadata)),
    }
    if not first:
        metadata["words"] = json.dumps(list(concept.words))
        metadata["encoders"] = json.dumps({e: list(table) for e, table in concept.tables.items()})
    write_tensors(path, tensors, metadata)


def tensors_of(delta: Delta | Adapter) -> Mapping[str, torch.Tensor]:
    """A delta's tensors by the ends of their names."""
    if isinstance(delta, Adapter):
        return delta.tensors
    if isinstance(delta, LowRank):
        return {DOWN: delta.down, UP: delta.up}
    return {DIFF: delta.matrix()}
