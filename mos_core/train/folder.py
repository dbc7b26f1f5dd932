"""A folder of training images: pictures, captions (.txt) and masks beside them."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .settings import TrainError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MASK = ".mask.png"  # <name>.mask.png belongs to <name>.png, <name>.jpg, ...


def list_training_folders(root: Path, depth: int = 3) -> list[str]:
    """Folders below `root` that hold pictures, as 'a/b', up to `depth` levels down."""
    return sorted(
        folder.relative_to(root).as_posix()
        for folder in walk_folders(root, depth)
        if next(picture_files(folder), None) is not None
    )


def walk_folders(root: Path, depth: int) -> Iterator[Path]:
    if depth > 0 and root.is_dir():
        for folder in root.iterdir():
            if folder.is_dir() and not folder.name.startswith("."):
                yield folder
                yield from walk_folders(folder, depth - 1)


def picture_files(folder: Path) -> Iterator[Path]:
    """The pictures of a folder by name, masks left out."""
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.endswith(PICTURES) and not name.endswith(MASK) and path.is_file():
            yield path


def read_training_folder(folder: Path, default_caption: str):
    """Pictures (1, h, w, 3) in 0..1, masks (1, h, w) in 0..1 and captions, one each per picture.

    A mask is `<name>.mask.png`, else the picture's alpha, else all ones. A caption is the text of
    `<name>.txt`, else `default_caption`. Raises TrainError for no or damaged pictures.
    """
    images, masks, captions = [], [], []
    for path in picture_files(folder):
        try:
            image, alpha = read_picture(path)
            mask_path = path.with_suffix(MASK)
            mask = read_gray(mask_path) if mask_path.is_file() else alpha
        except (OSError, ValueError, Image.DecompressionBombError) as error:
            raise TrainError(
                f"'{path.name}' or its mask cannot be read ({error}); replace or remove it"
            ) from None
        caption = path.with_suffix(".txt")
        try:
            text = caption.read_text(encoding="utf-8-sig").strip() if caption.is_file() else ""
        except (OSError, ValueError):
            raise TrainError(f"'{caption.name}' is not readable text (UTF-8)") from None
        images.append(image[None])
        masks.append(torch.ones(1, *image.shape[:2]) if mask is None else mask[None])
        captions.append(text or default_caption)
    if not images:
        raise TrainError(f"'{folder.name}' holds no pictures ({', '.join(PICTURES)})")
    return images, masks, captions


def read_picture(path: Path) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(h, w, 3) in 0..1, transparent parts on white, and alpha (h, w) or None."""
    with Image.open(path) as file:
        picture = ImageOps.exif_transpose(file)
        if not (picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info):
            return to_tensor(picture.convert("RGB")), None
        rgba = to_tensor(picture.convert("RGBA"))
    alpha = rgba[..., 3:]
    return rgba[..., :3] * alpha + (1 - alpha), alpha[..., 0]


def read_gray(path: Path) -> torch.Tensor:
    with Image.open(path) as file:
        return to_tensor(ImageOps.exif_transpose(file).convert("L"))


def to_tensor(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)


def folder_fingerprint(folder: Path) -> str:
    """Changes when a file of the folder changes."""
    files = [(p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.iterdir())]
    return str(hash(tuple(files)))
