"""One picture file of any kind as a tensor: 16 bit, palettes, alpha, turned by its camera."""

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

# What Pillow's decoders raise for damaged files, beside OSError.
DAMAGED = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip
SIXTEEN_BITS = 65535.0


def read_picture(path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(h, w, 3) in 0..1 as it is looked at, transparent parts on white, and alpha (h, w) or None.

    Raises one of DAMAGED for a file that is none.
    """
    with Image.open(path) as file:
        picture = upright(file)
        if is_deep(picture):
            return deep_to_tensor(picture)[..., None].repeat(1, 1, 3), None
        if not has_alpha(picture):
            return to_tensor(picture.convert("RGB")), None
        rgba = to_tensor(picture.convert("RGBA"))
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha), alpha[..., 0]


def read_gray(path: Path) -> torch.Tensor:
    """(h, w) in 0..1; transparent parts are 0. Raises one of DAMAGED for a file that is none."""
    with Image.open(path) as file:
        picture = upright(file)
        if is_deep(picture):
            return deep_to_tensor(picture)
        if not has_alpha(picture):
            return to_tensor(picture.convert("L"))
        rgba = picture.convert("RGBA")
        return to_tensor(rgba.convert("L")) * to_tensor(rgba.getchannel("A"))


def upright(picture: Image.Image) -> Image.Image:
    """As its camera says that it is to be looked at; damaged notes of a camera say nothing."""
    with contextlib.suppress(*DAMAGED):
        turned = ImageOps.exif_transpose(picture)
        if turned is not None:
            return turned
    return picture


def has_alpha(picture: Image.Image) -> bool:
    return picture.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in picture.info


def is_deep(picture: Image.Image) -> bool:
    """More than 8 bits a value, which Pillow's conversions would cut off."""
    return picture.mode == "F" or picture.mode.startswith("I")


def deep_to_tensor(picture: Image.Image) -> torch.Tensor:
    """A picture of 16-bit gray (or floats in 0..1) as (h, w) in 0..1."""
    values = np.asarray(picture).astype(np.float32)  # whatever the order of its bytes
    scale = 1.0 if picture.mode == "F" else SIXTEEN_BITS
    return torch.from_numpy(values / scale).clamp(0, 1)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)
