"""A picture of a layout: each region in its colour, with its number and prompt."""

import textwrap

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw, ImageFont

from .region import Region, Regions, left_by

# Okabe and Ito's colours, told apart with every kind of colour vision (black and grey left out).
# The editor has the same, in the same order: PALETTE in web/region_layout/palette.js.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")

PAPER = 0.13  # grey of the canvas
FILL = 0.35  # opacity of a region
LINES_OF_A_PROMPT = 3


def draw_regions(regions: Regions, background: torch.Tensor | None = None) -> torch.Tensor:
    """(1, height, width, 3) float32 in 0..1, as large as the canvas.

    background: an IMAGE (batch, height, width, channels); its first picture lies under the regions,
    as large as fits, in the middle. Regions in front are drawn over those behind.
    """
    size = (regions.height, regions.width)
    canvas = _paper(size, background)  # (height, width, 3)
    drawn = zip(_colors(regions), regions.regions, strict=True)
    for color, region in sorted(drawn, key=lambda pair: pair[1].depth or 0):
        opaque = FILL * cover(region, size)[..., None]
        canvas = canvas * (1 - opaque) + torch.from_numpy(_rgb(color)) * opaque
    picture = Image.fromarray((canvas.clamp(0, 1) * 255).round().byte().numpy())
    _write(picture, regions)
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[None]


def draw_before(
    regions: Regions | None, width: int, height: int, background: torch.Tensor | None
) -> torch.Tensor | None:
    """What lies under the boxes of a layout of `width` x `height` pixels: a background and the
    regions before it, as a picture like that of `draw_regions`; None where there is neither.
    """
    if background is None and regions is None:
        return None
    return draw_regions(Regions(width, height).after(regions), background)


def _paper(size: tuple[int, int], background: torch.Tensor | None) -> torch.Tensor:
    if background is None:
        return torch.full((*size, 3), PAPER)
    picture = background[:1, ..., :3].detach().float().cpu().movedim(-1, 1)
    fit = min(size[0] / picture.shape[2], size[1] / picture.shape[3])
    height, width = (
        max(1, min(whole, round(fit * side)))
        for whole, side in zip(size, picture.shape[2:], strict=True)
    )
    picture = F.interpolate(picture, (height, width), mode="bilinear", antialias=True)
    paper = torch.full((*size, 3), PAPER)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    paper[top : top + height, left : left + width] = picture[0].movedim(0, -1)
    return paper


def cover(region: Region, size: tuple[int, int]) -> torch.Tensor:
    """(height, width): what of each pixel belongs to the region."""
    whole = _whole_cover(region, size)
    return whole * left_by(region.in_front, *size) if region.in_front else whole


def _whole_cover(region: Region, size: tuple[int, int]) -> torch.Tensor:
    if region.mask is not None:
        return F.interpolate(region.mask[None, None], size, mode="bilinear")[0, 0]
    cover = torch.zeros(size)
    left, top, right, bottom = _pixels(region, size)
    cover[top:bottom, left:right] = 1.0
    return cover


def _pixels(region: Region, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """left, top, right, bottom of a box in pixels; of a mask, the box around what is not black."""
    height, width = size
    if region.box is not None:
        box = region.box
        ends = (box.x0 * width, box.y0 * height, box.x1 * width, box.y1 * height)
        return tuple(round(end) for end in ends)  # type: ignore[return-value]
    assert region.mask is not None
    rows, columns = region.mask.shape
    down, across = (region.mask > 0).nonzero(as_tuple=True)
    return (
        int(across.min()) * width // columns,
        int(down.min()) * height // rows,
        -(-(int(across.max()) + 1) * width // columns),
        -(-(int(down.max()) + 1) * height // rows),
    )


def _write(picture: Image.Image, regions: Regions) -> None:
    """Frames, numbers and prompts, in place."""
    draw = ImageDraw.Draw(picture)
    unit = max(1, min(picture.size) // 256)  # width of a line
    height = 11 * unit  # of a letter
    font = _font(height)
    for number, (region, color) in enumerate(zip(regions.regions, _colors(regions), strict=True)):
        left, top, right, bottom = _pixels(region, (regions.height, regions.width))
        if region.box is not None:
            frame = (left, top, right - 1, bottom - 1)
            draw.rectangle(frame, outline=color, width=2 * unit)
        letters = max(4, int((right - left - 8 * unit) / (0.55 * height)))
        text = f"{number + 1}  {' '.join(region.prompt.split())}"
        lines = textwrap.wrap(text, letters, max_lines=LINES_OF_A_PROMPT, placeholder=" …")
        place = (left + 5 * unit, top + 5 * unit)
        draw.multiline_text(
            place, "\n".join(lines), "white", font, stroke_width=unit, stroke_fill="black"
        )


def _font(height: int):
    try:
        return ImageFont.load_default(height)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()


def _colors(regions: Regions) -> list[str]:
    """The colour of each region, as #rrggbb.

    Those without a colour take it from the end of the palette, away from the colours of a layout's
    first boxes.
    """
    return [
        PALETTE[(-1 - number if region.color is None else region.color) % len(PALETTE)]
        for number, region in enumerate(regions.regions)
    ]


def _rgb(color: str) -> np.ndarray:
    return np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)], dtype=np.float32)
