"""The papers' own ED-LoRA file: a pickle `{'params': {new_concept_embedding, text_encoder, unet}}`.

Read with PyTorch's weights-only unpickler and in no other way.
"""

from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import FileFormatError, SaveError
from ..records import Concept
from .parts import build_concept, flatten_factors
from .tensor_file import own, read_pickle

EMBEDDING, TEXT, UNET = "new_concept_embedding", "text_encoder", "unet"
METADATA = "metadata"  # ours, beside 'params'; the reference ignores it


def is_reference(content: object) -> bool:
    """Whether a pickle held an ED-LoRA of the papers' code, whole or in part."""
    params = content.get("params", content) if isinstance(content, Mapping) else None
    return isinstance(params, Mapping) and bool({EMBEDDING, TEXT, UNET} & set(params))


def read_reference(path: Path, content: object = None) -> Concept:
    """Reads a reference `.pth`. content: what it held, if it is read already. Raises
    FileFormatError; runs no code from the file."""
    name = path.stem
    content = read_pickle(path) if content is None else content
    if not is_reference(content):
        raise FileFormatError(
            f"'{path.name}' is not an ED-LoRA: expected 'params' with {EMBEDDING}, {TEXT} and "
            f"{UNET}, found {describe(content)}"
        )
    assert isinstance(content, Mapping)
    params = content.get("params", content)
    embeddings, text, unet = (
        tensor_dict(path, key, params.get(key) or {}) for key in (EMBEDDING, TEXT, UNET)
    )
    metadata = content.get(METADATA)
    facts = metadata if isinstance(metadata, Mapping) else {}
    return build_concept(name, embeddings, text, unet, facts)


def tensor_dict(path: Path, part: str, value: object) -> dict[str, torch.Tensor]:
    """`value` as {name: detached tensor}. Raises FileFormatError for any other layout."""
    if not isinstance(value, Mapping) or not all(
        isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in value.items()
    ):
        raise FileFormatError(
            f"'{path.name}': '{part}' should be a table of named tensors, found {describe(value)}"
        )
    return {k: v.detach() for k, v in value.items()}


def describe(value: object) -> str:
    """A few words on what a file held instead of an ED-LoRA."""
    if isinstance(value, Mapping):
        keys = [str(key) for key in list(value)[:3]] + ["..."] * (len(value) > 3)
        return f"a table of {len(value)} entries ({', '.join(keys)})"
    return f"a {type(value).__name__}"


def write_reference(concept: Concept, path: Path) -> None:
    """Writes `path` in the reference's layout; the tensors are the concept's, bit for bit."""
    if len(concept.text) + len(concept.unet) < len(concept.deltas) or not concept.embeddings:
        raise SaveError(
            f"'{concept.name}' is not an ED-LoRA of one text encoder, and the papers' "
            "format holds nothing else; save it as safetensors"
        )
    content: dict = {
        "params": {
            EMBEDDING: {token: own(t) for token, t in concept.embeddings.items()},
            TEXT: {k: own(t) for k, t in flatten_factors(concept.text).items()},
            UNET: {k: own(t) for k, t in flatten_factors(concept.unet).items()},
        }
    }
    if concept.metadata:
        content[METADATA] = dict(concept.metadata)
    torch.save(content, path)
