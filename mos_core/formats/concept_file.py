"""Any concept file: told apart by its first bytes and names, saved atomically and never over
another."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import FileFormatError
from ..records import Concept
from .embeddings import inversion_tables, may_be_inversion
from .lora_file import build_lora, check_shapes, is_lora, split_words
from .lora_metadata import trigger_words_of
from .reference_pth import describe, is_reference, read_reference, write_reference
from .safetensors_edlora import FORMAT, describe_foreign, read_own, write_safetensors
from .saving import save_numbered
from .tensor_file import SAFETENSORS, TensorFile, kind_of, read_pickle

Tensors = Mapping[str, torch.Tensor]
BUNDLED = "bundle_emb."
WRITERS: dict[str, tuple[str, Callable[[Concept, Path], None]]] = {
    "safetensors": (".safetensors", write_safetensors),
    "reference pth": (".pth", write_reference),
}


def read_concept(
    path: str | Path,
    trigger_words: str = "",
    name: str = "",
    convert: Callable[[dict[str, torch.Tensor]], Tensors] = dict,
) -> Concept:
    """Reads a concept, whatever the file's ending: our `.safetensors`, the papers' `.pth`, any LoRA
    of any trainer, a textual inversion.

    trigger_words: by commas, instead of those that the file names (concept tokens stay, they are
    what its embeddings are called); name: instead of the file's.
    convert: from names that need it to others (ComfyUI's `convert_lora`). Raises FileFormatError
    with what was found and what to do.
    """
    path = Path(path)
    read = _read_safetensors if kind_of(path) == SAFETENSORS else _read_pickle
    concept = read(path, trigger_words, convert)
    if not concept.tables:
        concept = replace(concept, words=split_words(trigger_words) or concept.words)
    return replace(concept, name=name.strip()) if name.strip() else concept


def read_words(path: Path) -> tuple[str, tuple[str, ...]]:
    """Name and words of a concept; of an ordinary LoRA from its header alone. Raises
    FileFormatError."""
    if kind_of(path) == SAFETENSORS:
        file = TensorFile(path)
        ours = file.metadata.get("format", "").startswith("mos_")
        if (
            not ours
            and is_lora(file.shapes)
            and not any(n.startswith(BUNDLED) for n in file.shapes)
        ):
            return path.stem, trigger_words_of(file.metadata)
    concept = read_concept(path)
    return concept.name, concept.words


def _read_safetensors(path: Path, trigger_words: str, convert) -> Concept:
    file = TensorFile(path)
    if file.metadata.get("format") == FORMAT:
        return read_own(file)
    ours = file.metadata.get("format", "").startswith("mos_") or "mos_miniature" in file.metadata
    if not ours and is_lora(file.shapes) and not _is_checkpoint(file.shapes):
        check_shapes(file.name, file.shapes)  # before a tensor is read
        tensors = convert(file.read())
        return build_lora(file.name, path.stem, tensors, file.metadata, trigger_words)
    if not ours and may_be_inversion(file.shapes):
        tables = inversion_tables(file.name, path.stem, file.read())
        if tables:
            return _inversion(path, tables)
    raise FileFormatError(describe_foreign(file.name, file.metadata, list(file.shapes)))


def _read_pickle(path: Path, trigger_words: str, convert) -> Concept:
    content = read_pickle(path)
    if is_reference(content):
        return read_reference(path, content)
    inner = content.get("state_dict", content) if isinstance(content, Mapping) else content
    if isinstance(inner, Mapping) and is_lora(str(key) for key in inner):
        tensors = {str(k): t.detach() for k, t in inner.items() if isinstance(t, torch.Tensor)}
        return build_lora(path.name, path.stem, convert(tensors), {}, trigger_words)
    tables = inversion_tables(path.name, path.stem, content)
    if tables:
        return _inversion(path, tables)
    raise FileFormatError(
        f"'{path.name}' is neither a concept nor a LoRA nor a textual inversion: found "
        f"{describe(content)}"
    )


def _is_checkpoint(names) -> bool:
    weights = ("model.diffusion_model.", "cond_stage_model.", "first_stage_model.")
    return any(
        name.startswith(weights) and name.endswith(".weight") and "lora" not in name
        for name in names
    )


def _inversion(path: Path, tables) -> Concept:
    tokens = tuple(dict.fromkeys(token for own in tables.values() for token in own))
    rows = {len(table) for own in tables.values() for table in own.values()}
    family = None
    if len(tables) == 1 and rows == {16}:
        family = "sd15"
    return Concept(path.stem, tokens, tables, {}, family, {"base": "textual inversion"})


def save_concept(concept: Concept, folder: Path, prefix: str, layout: str = "safetensors") -> Path:
    """Writes the concept to `<folder>/<prefix>_00001_.<ending>`, the next free number.

    layout: a key of WRITERS. Raises SaveError; leaves nothing behind when it fails.
    """
    ending, write = WRITERS[layout]
    return save_numbered(folder, prefix, ending, lambda path: write(concept, path))
