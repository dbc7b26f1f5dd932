"""Training pictures of any size -> views of the training resolution, with masks.

Frames: pictures are (height, width, 3) in 0..1, masks (height, width) in 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import TrainError

LONGEST = 4  # times the short side; still longer pictures are padded into such a view
GRID = 64  # pixels; of the long side, so that pictures of nearly one shape share batches


@dataclass(frozen=True)
class Frame:
    """What a view shows of its picture, as SDXL is told it; (height, width) or (top, left) each.

    original: size of the picture, in its own pixels. corner: of the view in the picture at the
    view's scale. shape: of the view.
    """

    original: tuple[int, int]
    corner: tuple[int, int]
    shape: tuple[int, int]


@dataclass(frozen=True, eq=False)
class View:
    """One view of a picture.

    pixels: (height, width, 3) in 0..1; mask: (height, width) where the concept is, or None;
    valid: (height, width), 1 where the view shows picture, 0 where it was padded.
    """

    pixels: torch.Tensor
    mask: torch.Tensor | None
    valid: torch.Tensor
    caption: str
    frame: Frame


def unpack_batches(batches: Sequence[torch.Tensor], what: str) -> list[torch.Tensor]:
    """[(batch, ...), ...] of any sizes -> one tensor per picture."""
    if any(b.ndim != (4 if what == "images" else 3) for b in batches):
        raise TrainError(f"{what} have an unexpected shape: {[tuple(b.shape) for b in batches]}")
    return [item for batch in batches for item in batch]


def check_pictures(images: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> None:
    """Raises TrainError for no pictures, damaged ones, or masks that do not belong to them."""
    if not images:
        raise TrainError("there are no training images")
    for number, image in enumerate(images, 1):
        if min(image.shape[:2]) < 8 or not bool(torch.isfinite(image).all()):
            raise TrainError(
                f"image {number} is smaller than 8 pixels or holds invalid values; leave it out"
            )
    if masks and len(masks) not in (1, len(images)):
        raise TrainError(
            f"there are {len(masks)} masks for {len(images)} images; give one mask per image, or "
            "none"
        )
    for number, mask in enumerate(masks, 1):
        image = images[min(number, len(images)) - 1]
        if mask.shape != image.shape[:2]:
            raise TrainError(
                f"mask {number} is {mask.shape[1]} x {mask.shape[0]}, its image "
                f"{image.shape[1]} x {image.shape[0]}; make them the same size"
            )
        if not bool((mask > 0.5).any()):
            raise TrainError(f"mask {number} is empty; paint the concept white, or leave it out")


def make_views(
    images: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    captions: Sequence[str],
    size: int,
    views: int,
    seed: int,
    square: bool = True,
) -> list[View]:
    """`views` views per picture: the whole picture, then random crops (Mix-of-Show).

    square: every view is size x size, as published; else the short side is `size` and the long one
    follows the picture.
    """
    if len(masks) == 1:
        masks = list(masks) * len(images)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, image in enumerate(images):
        mask = masks[i] if masks else None
        height, width = (size, size) if square else shape_of_view(image, size)
        shown = torch.ones_like(image[..., 0]) if mask is None else mask
        stack = torch.cat([image[..., :3], shown[..., None]], -1).float()
        stack = stack.movedim(-1, 0)[None]  # (1, 4, height, width)
        for number in range(views):
            corner = (0, 0)
            if number:
                view, valid, corner = crop(stack, height, width, generator)
            else:
                view, valid = fit_whole(stack, height, width)
            h, w = image.shape[:2]
            made.append(
                View(
                    view[0, :3].movedim(0, -1).clamp(0, 1),
                    None if mask is None else view[0, 3].clamp(0, 1),
                    valid,
                    captions[i],
                    Frame((h, w), corner, (height, width)),
                )
            )
    return made


def shape_of_view(image: torch.Tensor, size: int) -> tuple[int, int]:
    """Height and width of a view with the picture's own shape: short side `size`, long side a
    multiple of GRID away from it."""
    h, w = image.shape[:2]
    longer = max(h, w) / min(h, w) * size
    longer = min(size + round((longer - size) / GRID) * GRID, LONGEST * size)
    return (longer, size) if h > w else (size, longer)


def fit_whole(stack: torch.Tensor, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole picture inside the view, padded. (1, c, h, w) -> (1, c, height, width), valid."""
    h, w = stack.shape[2:]
    scale = min(height / h, width / w)
    resized = resize(stack, max(8, round(h * scale)), max(8, round(w * scale)))
    h, w = resized.shape[2:]
    top, left = (height - h) // 2, (width - w) // 2
    padded = stack.new_zeros(1, stack.shape[1], height, width)
    padded[:, :3] = 0.5
    valid = stack.new_zeros(height, width)
    padded[:, :, top : top + h, left : left + w] = resized
    valid[top : top + h, left : left + w] = 1
    return padded, valid


def crop(
    stack: torch.Tensor,
    height: int,
    width: int,
    generator: torch.Generator,
    smallest: float = 0.75,
) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """A random crop of the view's shape, at least `smallest` of the largest one that the picture
    holds, as (1, c, height, width), valid, and its corner (top, left) at the view's scale."""
    h, w = stack.shape[2:]
    share, y, x = torch.rand(3, generator=generator).tolist()
    scale = min(h / height, w / width) * (smallest + (1 - smallest) * share)
    rows, columns = max(8, round(height * scale)), max(8, round(width * scale))
    top, left = round(y * (h - rows)), round(x * (w - columns))
    cut = stack[:, :, top : top + rows, left : left + columns]
    corner = round(top * height / rows), round(left * width / columns)
    return resize(cut, height, width), stack.new_ones(height, width), corner


def resize(stack: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if stack.shape[2:] == (height, width):
        return stack
    return F.interpolate(stack, (height, width), mode="bilinear", antialias=True)


def loss_weight(view: View, masked: bool, height: int, width: int) -> torch.Tensor:
    """Where the loss counts, on the latent's grid: (1, height, width) in 0..1."""
    weight = view.valid if view.mask is None or not masked else view.mask * view.valid
    small = F.interpolate(weight[None, None], (height, width), mode="area")[0]
    return small if bool(small.sum() > 0) else torch.ones_like(small)
