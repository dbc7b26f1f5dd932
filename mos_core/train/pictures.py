"""Training pictures of any size -> square views with masks.

Frames: pictures are (height, width, 3) in 0..1, masks (height, width) in 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .settings import TrainError


@dataclass(frozen=True, eq=False)
class View:
    """One square view of a picture.

    pixels: (size, size, 3) in 0..1; mask: (size, size) where the concept is, or None;
    valid: (size, size), 1 where the view shows picture, 0 where it was padded.
    """

    pixels: torch.Tensor
    mask: torch.Tensor | None
    valid: torch.Tensor
    caption: str


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
) -> list[View]:
    """`views` square views per picture: the whole picture, then random crops (Mix-of-Show)."""
    if len(masks) == 1:
        masks = list(masks) * len(images)
    generator = torch.Generator().manual_seed(seed)
    made = []
    for i, image in enumerate(images):
        mask = masks[i] if masks else None
        shown = torch.ones_like(image[..., 0]) if mask is None else mask
        stack = torch.cat([image[..., :3], shown[..., None]], -1).float()
        stack = stack.movedim(-1, 0)[None]  # (1, 4, height, width)
        for number in range(views):
            view, valid = fit_whole(stack, size) if number == 0 else crop(stack, size, generator)
            made.append(
                View(
                    view[0, :3].movedim(0, -1).clamp(0, 1),
                    None if mask is None else view[0, 3].clamp(0, 1),
                    valid,
                    captions[i],
                )
            )
    return made


def fit_whole(stack: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The whole picture inside the square, padded. (1, c, h, w) -> (1, c, size, size), valid."""
    h, w = stack.shape[2:]
    scale = size / max(h, w)
    resized = resize(stack, max(8, round(h * scale)), max(8, round(w * scale)))
    h, w = resized.shape[2:]
    top, left = (size - h) // 2, (size - w) // 2
    padded = stack.new_zeros(1, stack.shape[1], size, size)
    padded[:, :3] = 0.5
    valid = stack.new_zeros(size, size)
    padded[:, :, top : top + h, left : left + w] = resized
    valid[top : top + h, left : left + w] = 1
    return padded, valid


def crop(
    stack: torch.Tensor, size: int, generator: torch.Generator, smallest: float = 0.75
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random crop, at least `smallest` of the short side, as (1, c, size, size), valid."""
    h, w = stack.shape[2:]
    share, y, x = torch.rand(3, generator=generator).tolist()
    side = max(8, round(min(h, w) * (smallest + (1 - smallest) * share)))
    top, left = round(y * (h - side)), round(x * (w - side))
    cut = stack[:, :, top : top + side, left : left + side]
    return resize(cut, size, size), stack.new_ones(size, size)


def resize(stack: torch.Tensor, height: int, width: int) -> torch.Tensor:
    if stack.shape[2:] == (height, width):
        return stack
    return F.interpolate(stack, (height, width), mode="bilinear", antialias=True)


def loss_weight(view: View, masked: bool, height: int, width: int) -> torch.Tensor:
    """Where the loss counts, on the latent's grid: (1, height, width) in 0..1."""
    weight = view.valid if view.mask is None or not masked else view.mask * view.valid
    small = F.interpolate(weight[None, None], (height, width), mode="area")[0]
    return small if bool(small.sum() > 0) else torch.ones_like(small)
