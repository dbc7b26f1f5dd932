"""Pictures of a ComposerLog: attention maps over the steps, and how the loss fell."""

import itertools

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..regions.picture import PALETTE
from .cells import region_cells
from .log import ComposerLog

COLUMNS = 8  # steps that are shown, spread over all there are
CELL_WIDTH = 144  # of one map, pixels
TITLE, LABEL, GAP = 22, 18, 6
CURVE_WIDTH, CURVE_HEIGHT, MARGIN = 768, 384, 48
PAPER, INK, FAINT, TOTAL = "#ffffff", "#333333", "#dddddd", "#111111"
DASHES = {"enhancement": None, "fill": 6, "restriction": 2}  # pixels of a dash; None: a line


def draw_maps(log: ComposerLog) -> torch.Tensor:
    """(1, height, width, 3) float32 in 0..1: a row per region, a column per step; each map from
    black (0) to white (its row's largest value), the region outlined."""
    shown = _spread(len(log.steps))
    if not shown or not log.regions.regions:
        return _tensor(_empty(log))
    height = max(24, round(CELL_WIDTH * log.regions.height / log.regions.width))
    rows = len(log.regions.regions)
    size = (
        GAP + len(shown) * (CELL_WIDTH + GAP),
        LABEL + rows * (TITLE + height + GAP),
    )
    image = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(image), _font(13)
    for column, number in enumerate(shown):
        place = (GAP + column * (CELL_WIDTH + GAP), 2)
        draw.text(place, f"step {log.steps[number].step + 1}", INK, font)
    for row in range(rows):
        top = LABEL + row * (TITLE + height + GAP)
        peak = max(float(log.steps[number].maps[row].max()) for number in shown)
        text = f"{row + 1}  {log.names[row]}   (white: {peak:.2f})"
        draw.text((GAP, top + 3), text, INK, font)
        for column, number in enumerate(shown):
            left = GAP + column * (CELL_WIDTH + GAP)
            field = _heat(log.steps[number].maps[row], peak).resize(
                (CELL_WIDTH, height), Image.Resampling.NEAREST
            )
            image.paste(field, (left, top + TITLE))
            _outline(draw, log, row, (left, top + TITLE), (CELL_WIDTH, height))
    return _tensor(image)


def draw_losses(log: ComposerLog) -> torch.Tensor:
    """(1, CURVE_HEIGHT, CURVE_WIDTH, 3) in 0..1: the loss over the steps in black, what each region
    adds to it in the region's colour (line: enhancement, dashes: fill, dots: restriction)."""
    if not log.steps:
        return _tensor(_empty(log))
    image = Image.new("RGB", (CURVE_WIDTH, CURVE_HEIGHT), PAPER)
    draw, font = ImageDraw.Draw(image), _font(12)
    total = [step.losses[0] for step in log.steps]
    finite = [value for value in total if np.isfinite(value)]
    top = max([*finite, 1e-6]) * 1.05
    last = max(log.total_steps, log.steps[-1].step + 1)

    def at(step: int, value: float) -> tuple[float, float]:
        x = MARGIN + (CURVE_WIDTH - 2 * MARGIN) * (step / max(last - 1, 1))
        y = CURVE_HEIGHT - MARGIN - (CURVE_HEIGHT - 2 * MARGIN) * value / top
        return x, y

    for i in range(5):
        value = top * i / 4
        draw.line([at(0, value), at(last - 1, value)], fill=FAINT)
        draw.text((4, at(0, value)[1] - 7), f"{value:.3g}", INK, font)
    for region in range(len(log.names)):
        color = PALETTE[region % len(PALETTE)]
        for term, dash in DASHES.items():
            points = [at(s.step, s.terms[term][region]) for s in log.steps if _finite(s)]
            _polyline(draw, points, color, 1, dash)
    _polyline(draw, [at(s.step, s.losses[0]) for s in log.steps if _finite(s)], TOTAL, 3, None)
    for step in log.steps:
        if step.skipped:
            x, y = at(step.step, 0)
            draw.text((x - 3, y - 14), "x", "#d00000", font)
    draw.text((MARGIN, 6), "loss over the steps (black: sum; colours: regions)", INK, font)
    draw.text((MARGIN, CURVE_HEIGHT - MARGIN + 8), "step 1", INK, font)
    draw.text((CURVE_WIDTH - MARGIN - 20, CURVE_HEIGHT - MARGIN + 8), f"{last}", INK, font)
    return _tensor(image)


def _spread(count: int) -> list[int]:
    if count <= COLUMNS:
        return list(range(count))
    return [round(i * (count - 1) / (COLUMNS - 1)) for i in range(COLUMNS)]


def _finite(step) -> bool:
    return bool(np.isfinite([step.losses[0], *(v for t in step.terms.values() for v in t)]).all())


def _heat(field: torch.Tensor, peak: float) -> Image.Image:
    """Black, violet, orange, white: brightness grows all the way, so grey prints keep the order."""
    value = (field / max(peak, 1e-12)).clamp(0, 1).numpy()
    stops = np.array([0.0, 0.35, 0.7, 1.0])
    colors = np.array([[0, 0, 4], [120, 28, 109], [237, 121, 38], [252, 255, 230]], np.float32)
    rgb = np.stack([np.interp(value, stops, colors[:, c]) for c in range(3)], -1)
    return Image.fromarray(rgb.round().astype(np.uint8))


def _outline(draw, log: ComposerLog, row: int, place, size) -> None:
    region = log.regions.regions[row]
    fine = region_cells(region, 64, 64)
    if fine is None:
        return
    down, across = fine.window
    left, top = place
    box = (
        left + across.start / 64 * size[0],
        top + down.start / 64 * size[1],
        left + across.stop / 64 * size[0] - 1,
        top + down.stop / 64 * size[1] - 1,
    )
    draw.rectangle(box, outline=PALETTE[row % len(PALETTE)], width=2)


def _polyline(draw, points, color: str, width: int, dash: int | None) -> None:
    if len(points) == 1:
        x, y = points[0]
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=color)
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if dash is None:
            draw.line([(x0, y0), (x1, y1)], fill=color, width=width)
            continue
        length = max(np.hypot(x1 - x0, y1 - y0), 1e-6)
        for start in np.arange(0, length, 2 * dash):
            a, b = start / length, min((start + dash) / length, 1.0)
            ends = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b)]
            draw.line(ends, fill=color, width=width)


def _empty(log: ComposerLog) -> Image.Image:
    image = Image.new("RGB", (CURVE_WIDTH, CURVE_HEIGHT), PAPER)
    text = ["No guided steps yet.", *log.notes]
    ImageDraw.Draw(image).multiline_text((24, 24), "\n".join(text), INK, _font(14))
    return image


def _font(height: int):
    try:
        return ImageFont.load_default(height)
    except TypeError:  # Pillow before 10.1 has one size
        return ImageFont.load_default()


def _tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).astype(np.float32) / 255)[None]
