"""Regions from a picture in which every region has a colour of its own."""

import re

import numpy as np
import torch
from scipy import ndimage

from ..errors import RegionError
from .from_masks import add_mask
from .region import Regions

SAME_COLOR = 48.0  # distance in 8-bit RGB up to which colours count as one (compression, brushes)
SMALLEST_SHARE = 0.002  # of the picture; rarer colours are edges between two regions
MOST_COLORS = 256  # that are looked for; a photograph has more
COLORS_NAMED = 12  # in a message
NAMES = {"black": "#000000", "white": "#ffffff", "": "", "none": ""}
HEX = re.compile(r"#[0-9a-fA-F]{6}\b")


def add_colors(
    picture: torch.Tensor,
    prompts: str,
    background: str = "#000000",
    negative: str = "",
    weight: float = 1.0,
    before: Regions | None = None,
) -> Regions:
    """`before` and a region for each colour of the picture.

    picture: an IMAGE (batch, height, width, channels) in 0..1; the first one counts. prompts: one a
    line, for the colours from left to right (by the middle of all their pixels; what lies one below
    the other: from top to bottom); a line that begins with `#rrggbb` is for that colour.
    background: the colour that is no region, `#rrggbb`, black, white or none. Raises RegionError
    where prompts and colours do not match, naming the colours that were found.
    """
    colors, labels = find_colors(picture[0, ..., :3].expand(-1, -1, 3))
    nothing = _parse_color(background)
    found = [
        number
        for number, color in enumerate(colors)
        if nothing is None or _distance(color, nothing) > SAME_COLOR
    ]
    if not found:
        raise RegionError(
            f"The colour picture has no colour beside its background {background}. Paint each "
            "region in a flat colour of its own."
        )
    middles = ndimage.center_of_mass(np.ones(labels.shape), labels, found)
    # to whole pixels, so that what lies exactly one below the other counts as equally far left
    order = sorted(zip(middles, found, strict=True), key=lambda m: (round(m[0][1]), m[0][0]))
    found = [number for _, number in order]
    regions = before
    for number, prompt in _assign(prompts, [(number, colors[number]) for number in found]):
        mask = torch.from_numpy((labels == number).astype(np.float32))
        regions = add_mask(mask, prompt, negative, weight, before=regions)
    assert regions is not None
    return regions


def find_colors(picture: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The colours of a picture (height, width, 3) in 0..1 and which pixel has which.

    Returns colours (n, 3) uint8, the most frequent first, and labels (height, width) int. A pixel
    of none of them (a soft edge) takes that of the nearest pixel that has one.
    """
    pixels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().int().numpy()
    packed = (pixels << [16, 8, 0]).sum(-1)  # (height, width)
    codes, inverse, counts = np.unique(packed.ravel(), return_inverse=True, return_counts=True)
    codes = (codes[:, None] >> [16, 8, 0] & 255).astype(np.uint8)  # (codes, 3)
    smallest = max(1, round(SMALLEST_SHARE * inverse.size))
    group = np.full(len(codes), -1)  # of each code
    colors: list[np.ndarray] = []
    left = counts.copy()
    for _ in range(MOST_COLORS):
        if left.max() == 0:
            break
        color = codes[left.argmax()]
        near = (left > 0) & (_distance(codes, color) <= SAME_COLOR)
        if counts[near].sum() >= smallest and _is_area(near[inverse], packed.shape):
            group[near] = len(colors)
            colors.append(color)
        left[near] = 0
    labels = group[inverse].reshape(packed.shape)
    nearest = ndimage.distance_transform_edt(
        labels < 0, return_distances=False, return_indices=True
    )
    return np.array(colors, dtype=np.uint8).reshape(-1, 3), labels[tuple(nearest)]


def _is_area(mask: np.ndarray, size: tuple[int, ...]) -> bool:
    """Whether pixels lie in the middle of others, as those of a soft edge do not."""
    inner = ndimage.binary_erosion(mask.reshape(size), np.ones((3, 3)))
    return inner.mean() >= SMALLEST_SHARE


def _assign(prompts: str, found: list[tuple[int, np.ndarray]]) -> list[tuple[int, str]]:
    """(number of the colour, prompt), in the order of the lines."""
    lines = [line.strip() for line in prompts.splitlines() if line.strip()]
    names = ", ".join(_hex(color) for _, color in found[:COLORS_NAMED])
    names += ", ..." if len(found) > COLORS_NAMED else ""
    if len(lines) != len(found):
        raise RegionError(
            f"The colour picture has {len(found)} colours beside its background ({names}, from "
            f"left to right), but there are {len(lines)} prompts. Write one line for each colour, "
            "and paint in flat colours."
        )
    named: dict[int, int] = {}  # line -> number of the colour
    for i, line in enumerate(lines):
        match = HEX.match(line)
        if match is None:
            continue
        number, color = min(found, key=lambda f: _distance(f[1], _parse_color(match[0])))
        if _distance(color, _parse_color(match[0])) > SAME_COLOR or number in named.values():
            raise RegionError(
                f"The prompt '{line}' asks for the colour {match[0]}, which the picture does not "
                f"have or which has a prompt already. It has {names}."
            )
        named[i] = number
    rest = iter(number for number, _ in found if number not in named.values())
    return [
        (named[i], HEX.sub("", line, count=1).lstrip(" :=")) if i in named else (next(rest), line)
        for i, line in enumerate(lines)
    ]


def _parse_color(text: str) -> np.ndarray | None:
    name = NAMES.get(text.strip().lower(), text.strip())
    if not name:
        return None
    if not HEX.fullmatch(name):
        raise RegionError(f"'{text}' is no colour. Write #rrggbb, black, white or none.")
    return np.array([int(name[i : i + 2], 16) for i in (1, 3, 5)])


def _distance(colors: np.ndarray, color: np.ndarray | None) -> np.ndarray:
    return np.linalg.norm(colors.astype(float) - color, axis=-1)


def _hex(color: np.ndarray) -> str:
    return "#" + "".join(f"{channel:02x}" for channel in color)
