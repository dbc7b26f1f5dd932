"""The sums of one concept in one stage of a fusion, kept on disk to be used again.

Tensors: `<input group>.gram` (in, in) and `<input group>.sketch` (rows, in). Metadata: `format`,
`version`, `rows` (JSON: rows by input group), `products` (JSON: their dtype by input group).
"""

import json
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from .sums import Gram

FORMAT, VERSION = "mos_sums", "2"
LOG = logging.getLogger(__name__)
DTYPES = {str(dtype): dtype for dtype in (torch.float32, torch.float64)}


def write_sums(path: Path, grams: Mapping[str, Gram]) -> None:
    """All or nothing; a disk that is full or not writable is logged, and nothing is kept."""
    tensors, temporary = {}, None
    rows = {group: gram.rows for group, gram in grams.items()}
    products = {group: str(gram.dtype) for group, gram in grams.items()}
    for group, gram in grams.items():
        assert gram.matrix is not None
        assert gram.sketch is not None
        tensors[f"{group}.gram"] = gram.matrix.cpu().contiguous()
        tensors[f"{group}.sketch"] = gram.sketch.cpu().contiguous()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".saving_", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        metadata = {"format": FORMAT, "version": VERSION}
        metadata |= {"rows": json.dumps(rows), "products": json.dumps(products)}
        safetensors.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        LOG.warning("Fuse Concepts cannot keep a concept's sums: %s", error)
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def read_sums(path: Path, device=None) -> dict[str, Gram] | None:
    """None if there is no such file, or it is of no use (it will be written again)."""
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, VERSION):
                return None
            grams, products = {}, json.loads(metadata["products"])
            for group, rows in json.loads(metadata["rows"]).items():
                gram = grams[group] = Gram(DTYPES[products[group]], device)
                # Copies: a tensor of the file would change when somebody replaces the file.
                gram.matrix = file.get_tensor(f"{group}.gram").to(device, copy=True)
                gram.sketch = file.get_tensor(f"{group}.sketch").to(device, copy=True)
                gram.rows = int(rows)
            return grams
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        LOG.warning("Fuse Concepts: the sums in '%s' are damaged: %s", path.name, error)
        return None
