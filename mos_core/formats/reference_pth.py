"""The papers' own ED-LoRA file: a pickle `{'params': {new_concept_embedding, text_encoder, unet}}`.

Read with PyTorch's weights-only unpickler and in no other way.
"""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch

from ..errors import FileFormatError
from ..records import Concept
from .parts import build_concept, describe_lora, flatten_factors, own

EMBEDDING, TEXT, UNET = "new_concept_embedding", "text_encoder", "unet"
METADATA = "metadata"  # ours, beside 'params'; the reference ignores it


def read_reference(path: Path) -> Concept:
    """Reads a reference `.pth`. Raises FileFormatError; runs no code from the file."""
    name = path.stem
    try:
        with open(path, "rb") as file:  # given a path, PyTorch goes by the ending
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise FileFormatError(
            f"'{path.name}' holds Python objects other than tensors, or is damaged. Such a pickle "
            "could run code, so it was not opened; get it again, or ask for it as .safetensors"
        ) from None
    except Exception as error:  # the reader of the archive has no common error type
        raise FileFormatError(
            f"'{path.name}' is truncated or damaged ({type(error).__name__}); get it again"
        ) from None
    params = content.get("params", content) if isinstance(content, Mapping) else None
    if not isinstance(params, Mapping) or not {EMBEDDING, TEXT, UNET} & set(params):
        if isinstance(params, Mapping) and any("lora_" in str(key) for key in params):
            raise FileFormatError(describe_lora(path.name))
        raise FileFormatError(
            f"'{path.name}' is not an ED-LoRA: expected 'params' with {EMBEDDING}, {TEXT} and "
            f"{UNET}, found {describe(content)}"
        )
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
