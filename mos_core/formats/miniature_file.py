"""The miniature checkpoint's file: `.safetensors` in ComfyUI's key names, with a record of its
sizes.

The metadata entry `mos_miniature` is JSON. Version 1 is Stable Diffusion 1.5's topology: `unet`,
`text_encoder`, `vae`. Version 2 has a `family` ("flux", "sdxl") and, in place of `unet`, `model`;
`text_encoder` holds a configuration for each of its encoders. Of a token table's rows only those in
use are stored; TOKEN_ROWS and T5_ROWS hold their ids. Weights may be packed (packed.py).
"""

import json

import torch
from safetensors import SafetensorError, safe_open

from ..errors import FileFormatError
from .packed import unpack

METADATA_KEY = "mos_miniature"
ENTRIES = {  # by version
    1: ("unet", "text_encoder"),
    2: ("family", "model", "text_encoder"),
}
FAMILIES = ("flux", "sdxl")
VAE_KINDS = ("taesd",)

UNET_PREFIX, CLIP_PREFIX, VAE_PREFIX = (
    "model.diffusion_model.",
    "cond_stage_model.",
    "first_stage_model.",
)
TOKEN_TABLE = "transformer.text_model.embeddings.token_embedding.weight"  # (rows in use, width)
TOKEN_ROWS = (
    "transformer.text_model.embeddings.token_embedding.rows"  # (rows in use,) int64 token ids
)
VOCABULARY = 49408

FLUX_PREFIXES = (
    "model.diffusion_model.",
    "text_encoders.clip_l.",
    "text_encoders.t5xxl.",
    "vae.",
)
SDXL_PREFIXES = (
    "model.diffusion_model.",
    "text_encoders.clip_l.",
    "text_encoders.clip_g.",
    "first_stage_model.",
)
T5_TABLE, T5_ROWS = "transformer.shared.weight", "transformer.shared.rows"
T5_VOCABULARY = 32128


def read_miniature_metadata(path) -> dict:
    """The checkpoint's `mos_miniature` record; raises FileFormatError if the file is none or is of
    another version."""
    with _open(path) as file:
        text = (file.metadata() or {}).get(METADATA_KEY)
    if text is None:
        raise FileFormatError(
            f"'{path}' is not a miniature checkpoint (no '{METADATA_KEY}' in its metadata). "
            "Load ordinary checkpoints with ComfyUI's Load Checkpoint."
        )
    try:
        config = json.loads(text)
        version, kind = config["version"], config["vae"]
        for entry in ENTRIES.get(version, ()):
            config[entry]
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(
            f"'{path}': the miniature metadata cannot be read ({error!r})."
        ) from error
    if version not in ENTRIES:
        known = " and ".join(map(str, ENTRIES))
        raise FileFormatError(
            f"'{path}' is a miniature checkpoint of version {version}; this pack reads {known}."
        )
    if config.get("family", FAMILIES[0]) not in FAMILIES:
        raise FileFormatError(
            f"'{path}' is a miniature checkpoint of the family '{config['family']}'; "
            f"known: {', '.join(FAMILIES)}."
        )
    if kind not in VAE_KINDS:
        raise FileFormatError(
            f"'{path}' has a VAE of kind '{kind}'; known: {', '.join(VAE_KINDS)}."
        )
    return config


def read_miniature_tensors(path) -> dict[str, torch.Tensor]:
    """Every tensor of the file, on the CPU, as stored; packed ones in float16."""
    with _open(path) as file:
        return unpack(path, {key: file.get_tensor(key) for key in file.keys()})


def split_parts(path, tensors: dict, prefixes: tuple[str, ...]) -> list[dict[str, torch.Tensor]]:
    """The weights under each prefix, without it; raises FileFormatError if one has none."""
    parts = []
    for prefix in prefixes:
        part = {k[len(prefix) :]: tensor for k, tensor in tensors.items() if k.startswith(prefix)}
        if not part:
            raise FileFormatError(
                f"'{path}' has no weights under '{prefix}': the miniature checkpoint is incomplete."
            )
        parts.append(part)
    return parts


def complete_token_table(
    table: torch.Tensor, rows: torch.Tensor | None, vocabulary: int = VOCABULARY
) -> torch.Tensor:
    """(n, width) learned rows and their token ids (n,) -> (vocabulary, width).

    Without `rows` the table holds the tokens 0 to n-1. A token without a learned row gets the mean
    of the learned
    ones: a word that the model has never seen says nothing in particular.
    """
    if rows is None:
        rows = torch.arange(table.shape[0])
    if (
        len(rows) != table.shape[0]
        or len(rows) > vocabulary
        or rows.min() < 0
        or rows.max() >= vocabulary
    ):
        raise FileFormatError(
            f"The token table has {table.shape[0]} rows for {len(rows)} token ids; "
            f"ids go from 0 to {vocabulary - 1}."
        )
    full = table.float().mean(0, keepdim=True).to(table.dtype).repeat(vocabulary, 1)
    full[rows.long()] = table
    return full


def _open(path):
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise FileFormatError(f"'{path}' cannot be read as .safetensors: {error}.") from error
