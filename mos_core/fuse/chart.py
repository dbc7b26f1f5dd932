"""What a fusion cost, as a picture: every layer's loss, and every concept's."""

from collections.abc import Mapping

import numpy as np
import torch
from PIL import Image, ImageDraw

from .report import STAGES, stage_of

WIDTH, MARGIN, LAYERS, ROW = 768, 48, 220, 14
INK, GRID = "#333333", "#dddddd"
COLOURS = dict(zip(STAGES.values(), ("#1f5fbf", "#c0392b", "#2e8b57"), strict=True))
REFINED = "#8e44ad"


def draw_fusion(facts: Mapping) -> torch.Tensor:
    """(1, height, WIDTH, 3) in 0..1, from a Fused's metadata.

    Above: a bar for every layer, the share of what the concepts ask of it that is lost (1 is drawn
    as 100 %: no better than the base weight). Below: for every concept the share of its own change
    that is lost in each stage, and what refinement left of the error of the predicted noise.
    """
    refined = facts.get("refined", {})
    bars = [(name, bars_of(name, shares, refined)) for name, shares in facts.get("lost", [])]
    others = set(refined) - {name for name, _ in bars}
    bars += [(name, bars_of(name, {}, refined)) for name in sorted(others)]
    height = LAYERS + MARGIN + sum(len(rows) * ROW + ROW for _, rows in bars) + ROW
    image = Image.new("RGB", (WIDTH, height), "white")
    draw = ImageDraw.Draw(image)
    draw_layers(draw, facts.get("loss", {}))
    y = LAYERS + MARGIN
    for name, rows in bars:
        draw.text((MARGIN, y), name, fill=INK)
        for label, share, colour in rows:
            draw_row(draw, y, label, share, colour)
            y += ROW
        y += ROW
    return torch.from_numpy(np.asarray(image, dtype=np.float32) / 255)[None]


def bars_of(name: str, shares: Mapping, refined: Mapping) -> list[tuple[str, float, str]]:
    """(what, share, colour) of one concept."""
    rows = [(stage, share, COLOURS[stage]) for stage, share in shares.items()]
    if name in refined:
        before, after = refined[name]
        rows.append(("noise, after refinement", after / max(before, 1e-30), REFINED))
    return rows or [("asks for nothing", 0.0, INK)]


def draw_layers(draw: ImageDraw.ImageDraw, loss: Mapping[str, list[float]]) -> None:
    left, right, top, bottom = MARGIN, WIDTH - MARGIN // 2, 36, LAYERS
    for i in range(5):
        y = bottom - (bottom - top) * i / 4
        draw.line([(left, y), (right, y)], fill=GRID)
        draw.text((4, y - 6), f"{i * 25} %", fill=INK)
    x = float(left)
    for stage, colour in COLOURS.items():
        draw.text((x, 12), stage, fill=colour)
        x += draw.textlength(stage) + 24
    asked = [(m, after / before) for m, (before, after) in loss.items() if before > 0]
    width = (right - left) / max(len(asked), 1)
    for i, (module, share) in enumerate(asked):
        x, y = left + i * width, bottom - (bottom - top) * min(share, 1.0)
        draw.rectangle([x, y, x + max(width - 1, 0), bottom], fill=COLOURS[stage_of(module)])
    draw.text((left, bottom + 6), f"{len(asked)} layers: the share that is lost", fill=INK)


def draw_row(draw: ImageDraw.ImageDraw, y: int, label: str, share: float, colour: str) -> None:
    """One bar of a concept, from 0 to 100 %."""
    left, right = WIDTH // 2 + 16, WIDTH - MARGIN
    draw.text((left - 8 - draw.textlength(label), y), label, fill=INK)
    end = left + (right - left) * min(max(share, 0.0), 1.0)
    draw.rectangle([left, y + 2, end, y + ROW - 3], fill=colour)
    draw.text((end + 4, y), f"{share:.0%}", fill=INK)
