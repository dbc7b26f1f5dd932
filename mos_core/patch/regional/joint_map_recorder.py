"""Attention maps of the regions in a diffusion transformer, differentiably.

The maps are those of a UNet: of every cell to the words of a region's own text, and of a region's
cells to all cells of the picture (isolation counted in). Where a transformer has both in one
attention, each is taken by itself, a softmax over the one or the other.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from ...compose.cells import RegionCells
from ...compose.isolation import Isolation, isolate, isolation_bias
from ...families.family import ALONE_IMAGE, CROSS, JOINT
from ...regions.region import Region
from .block import rows_of
from .joint_attention import Watch
from .joint_run import ImagePlan
from .joint_texts import CallTexts
from .map_recorder import MapRecorder
from .roles import POSITIVE


class JointMapRecorder(MapRecorder):
    """layers: numbers of the attentions among those of their kind. cells: per region, on the map's
    grid. words: per region, places of its concept's words in its own text; negative ones count from
    its end. regions, isolation: of the run. step: tokens along the side of a map's cell. joint:
    text and picture are in one attention."""

    def __init__(
        self,
        layers: Sequence[int],
        cells: Sequence[RegionCells | None],
        words: Sequence[Sequence[int]],
        regions: Sequence[Region],
        isolation: Isolation,
        step: int,
        joint: bool,
    ):
        super().__init__(layers, cells, [torch.zeros(0, dtype=torch.long) for _ in words])
        self.words = [tuple(own) for own in words]
        self.regions, self.isolation, self.step = regions, isolation, step
        self.kinds = (JOINT,) if joint else (CROSS, ALONE_IMAGE)

    def watching(self, halves: Sequence[int], texts: CallTexts, image: ImagePlan) -> Watch | None:
        """What looks at the attentions of a call; None where it draws no positive prompt. halves:
        of each chunk of the batch."""
        if POSITIVE not in halves:
            return None
        chunk = list(halves).index(POSITIVE)
        at = rows_of(chunk, halves, len(texts.context))
        given, plan = texts.given[chunk], texts.padded[chunk]
        device = texts.context.device
        spans = plan.ranges[1:]  # a model's padding is part of a text: it looks at it too
        self.positions = [
            torch.tensor(at, dtype=torch.long, device=device)
            for own, (count, _) in zip(self.words, given.words[1:], strict=True)
            for at in [[p % count for p in own if -count <= p < count]]
        ]
        allowed = self._allowed(image, device)

        def watch(kind: str, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
            if kind not in self.kinds or not self.wants(layer):
                return
            q, k = q[at].float(), k[at].float()
            k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)  # heads that several share
            before = plan.total if kind == JOINT else 0
            heads, cells = q.shape[1], slice(before, before + image.cells)
            queries = _in_one(self._coarse(q[:, :, cells], image))
            keys = None if kind == CROSS else _in_one(self._coarse(k[:, :, cells], image))
            for region, span in enumerate(spans):
                if kind != ALONE_IMAGE and len(span):
                    own = k[:, :, span.start : span.stop]
                    self.cross(layer, region, queries, _in_one(own), heads)
                if keys is not None:
                    self.self_attention(layer, region, queries, keys, heads, allowed)
            if kind != ALONE_IMAGE:
                self.done(layer)

        return watch

    def _allowed(self, image: ImagePlan, device: torch.device) -> torch.Tensor | None:
        """(cells, cells): what isolation adds to the logits between cells of the maps."""
        if self.isolation.mode == "off":
            return None
        rows, columns = (-(-side // self.step) for side in (image.rows, image.columns))
        member = self.isolation.members(self.regions, rows, columns)
        groups = isolate(member, self.isolation.mode, device)
        if all(group.keys is None for group in groups):
            return None
        return isolation_bias(groups, rows * columns, device)

    def _coarse(self, tokens: torch.Tensor, image: ImagePlan) -> torch.Tensor:
        """(batch, heads, tokens, width) -> the same of the maps' cells: means of their tokens."""
        if self.step == 1:
            return tokens
        planes = tokens.transpose(2, 3).flatten(0, 1).unflatten(2, (image.rows, image.columns))
        pooled = F.avg_pool2d(planes, self.step, ceil_mode=True, count_include_pad=False)
        return pooled.flatten(2).unflatten(0, tokens.shape[:2]).transpose(2, 3)


def _in_one(tokens: torch.Tensor) -> torch.Tensor:
    """(batch, heads, tokens, width) -> (batch, tokens, heads * width)"""
    return tokens.transpose(1, 2).flatten(2)
