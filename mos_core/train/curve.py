"""The loss curve as a picture."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw

WIDTH, HEIGHT, MARGIN = 768, 384, 48
INK, GRID, FAINT, LINE = "#333333", "#dddddd", "#b7cbe8", "#1f5fbf"


def draw_curve(losses: Sequence[float], first_step: int = 0, window: int = 25) -> torch.Tensor:
    """(1, HEIGHT, WIDTH, 3) in 0..1: the loss of every step, and its running mean.

    losses: one per step, starting at step `first_step` + 1.
    """
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    values = np.asarray(losses, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) == 0:
        draw.text((MARGIN, HEIGHT // 2), "no steps were taken", fill=INK)
    else:
        window = max(1, min(window, len(values)))
        mean = np.convolve(values, np.ones(window) / window, mode="valid")
        top = float(max(np.quantile(values, 0.98), mean.max())) * 1.05 or 1.0
        for i in range(5):
            y = HEIGHT - MARGIN - (HEIGHT - 2 * MARGIN) * i / 4
            draw.line([(MARGIN, y), (WIDTH - MARGIN // 2, y)], fill=GRID)
            draw.text((4, y - 6), f"{top * i / 4:.3g}", fill=INK)
        steps: np.ndarray = np.arange(len(values)) + first_step + 1
        span = (int(steps[0]), int(max(steps[-1], steps[0] + 1)))
        draw.line(points(steps, values, span, top), fill=FAINT)
        draw.line(points(steps[window - 1 :], mean, span, top), fill=LINE, width=2)
        draw.text((MARGIN, HEIGHT - MARGIN + 8), f"step {steps[0]}", fill=INK)
        draw.text((WIDTH - 2 * MARGIN, HEIGHT - MARGIN + 8), f"step {steps[-1]}", fill=INK)
        draw.text((MARGIN, 12), f"loss, mean of {window} steps: {mean[-1]:.4f}", fill=LINE)
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def points(steps, values, span: tuple[int, int], top: float) -> list[tuple[float, float]]:
    x = MARGIN + (steps - span[0]) / (span[1] - span[0]) * (WIDTH - 1.5 * MARGIN)
    y = HEIGHT - MARGIN - np.clip(values / top, 0, 1) * (HEIGHT - 2 * MARGIN)
    return list(zip(x.tolist(), y.tolist(), strict=True))
