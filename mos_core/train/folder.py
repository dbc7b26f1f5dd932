"""A folder of training images: pictures, captions (.txt) and masks beside them."""

from collections.abc import Iterator
from pathlib import Path

import torch

from ..errors import TrainError
from .picture_file import DAMAGED, read_gray, read_picture

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MASK, CAPTION = ".mask.png", ".txt"  # <name>.mask.png belongs to <name>.png, <name>.jpg, ...
# Names that other systems put beside one's own: "._a.png" (macOS), "@eaDir" (Synology), ...
FOREIGN = (".", "@", "__macosx", "#recycle", "$recycle")


def list_training_folders(root: Path, depth: int = 3) -> list[str]:
    """Folders below `root` that hold pictures, as 'a/b', up to `depth` levels down."""
    return sorted(
        folder.relative_to(root).as_posix()
        for folder in walk_folders(root, depth)
        if next(picture_files(folder), None) is not None
    )


def walk_folders(root: Path, depth: int) -> Iterator[Path]:
    """Folders and links to folders, those left out that cannot be read."""
    for folder in entries_of(root) if depth > 0 and root.is_dir() else ():
        if folder.is_dir():
            yield folder
            yield from walk_folders(folder, depth - 1)


def entries_of(folder: Path) -> list[Path]:
    """What lies in a folder, by name, without what is hidden or another system's."""
    try:
        found = sorted(folder.iterdir())
    except OSError:
        return []
    return [path for path in found if not path.name.lower().startswith(FOREIGN)]


def picture_files(folder: Path) -> Iterator[Path]:
    """The pictures of a folder by name, masks left out."""
    for path in entries_of(folder):
        name = path.name.lower()
        if name.endswith(PICTURES) and not name.endswith(MASK) and path.is_file():
            yield path


def read_training_folder(folder: Path, default_caption: str):
    """Pictures (1, h, w, 3) in 0..1, masks (1, h, w) in 0..1 and captions, one each per picture.

    A mask is `<name>.mask.png`, else the picture's alpha, else all ones. A caption is the text of
    `<name>.txt`, else `default_caption`. Raises TrainError for no or damaged pictures.
    """
    beside = {path.name.lower(): path for path in entries_of(folder) if path.is_file()}
    images, masks, captions = [], [], []
    for path in picture_files(folder):
        stem = path.stem.lower()
        image, mask = read_with_mask(path, beside.get(stem + MASK))
        images.append(image[None])
        masks.append(torch.ones(1, *image.shape[:2]) if mask is None else mask[None])
        captions.append(read_caption(beside.get(stem + CAPTION)) or default_caption)
    if not images:
        raise TrainError(f"'{folder.name}' holds no pictures ({', '.join(PICTURES)})")
    return images, masks, captions


def read_with_mask(path: Path, mask: Path | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(h, w, 3) and (h, w) in 0..1, the picture's alpha where there is no file of a mask."""
    try:
        image, alpha = read_picture(path)
        return image, alpha if mask is None else read_gray(mask)
    except DAMAGED as error:
        raise TrainError(
            f"'{path.name}' or its mask cannot be read ({error}); replace or remove it"
        ) from None


def read_caption(path: Path | None) -> str:
    """The text of a caption's file, in UTF-8 or (with its mark) UTF-16; "" for none."""
    if path is None:
        return ""
    try:
        content = path.read_bytes()
        marked = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        return content.decode("utf-16" if marked else "utf-8-sig").strip()
    except (OSError, ValueError):
        raise TrainError(f"'{path.name}' is not readable text (UTF-8)") from None


def folder_fingerprint(folder: Path) -> str:
    """Changes when a file of the folder changes."""
    files = [
        (path.name, path.stat().st_mtime_ns, path.stat().st_size)
        for path in entries_of(folder)
        if path.exists()
    ]
    return str(hash(tuple(files)))
