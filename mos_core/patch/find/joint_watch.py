"""What the attention of a diffusion transformer looks at, read beside a run and nothing changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from ...families.family import ALONE_IMAGE, CROSS, JOINT, Family
from ...find.silhouettes import Maps
from ..regional.joint import Arguments, plan_image
from ..regional.joint_attention import OVERRIDE, GroupedAttention
from ..regional.joint_run import ImagePlan
from .watch import MOST_CELLS, POSITIVE

KEY = "mix_of_show_watch"  # of our wrapper on a ModelPatcher


@dataclass(frozen=True)
class WatchedText:
    """A text among the keys of an attention. start, count: its tokens. words: per map that it
    gives, (the map's number, positions of its words in this text)."""

    start: int
    count: int
    words: tuple[tuple[int, tuple[int, ...]], ...]


class TokenMaps:
    """Sums, over layers and steps, of what the image's cells look at.

    words: map's number -> (cells,), attention to its words as a share of that to the text, as a
    cross-attention has it (some cells look at the text as a whole far more than others do), each
    layer's as a multiple of its mean.
    own: (cells, cells) attention to other cells. weight: of the step that is running. Pictures with
    more than MOST_CELLS cells are looked at on a coarser grid: queries and keys of neighbouring
    cells are averaged.
    """

    def __init__(self) -> None:
        self.words: dict[int, torch.Tensor] = {}
        self.own: torch.Tensor | None = None
        self.weight = 1.0
        self.grid = (0, 0)

    def note(
        self,
        kind: str,
        q: torch.Tensor,
        k: torch.Tensor,
        image: ImagePlan,
        texts: Sequence[WatchedText],
    ) -> None:
        """q, k: (heads, tokens, width) of one picture; k may have fewer heads that several share.
        texts: among the keys, which lie before the image's."""
        if kind not in (JOINT, CROSS, ALONE_IMAGE):
            return
        before = k.shape[1] - image.total if kind == JOINT else 0
        cells = image.cells
        if before < 0 or q.shape[1] < before + cells:
            return
        q, k = q.float(), k.float().repeat_interleave(q.shape[0] // k.shape[0], 0)
        queries = self._coarse(q[:, before : before + cells], image) * q.shape[-1] ** -0.5
        own = None
        if kind != CROSS and k.shape[1] >= before + cells:
            own = self._coarse(k[:, before : before + cells], image)
        words: dict[int, torch.Tensor] = {}
        seen = None
        for head in range(len(q)):
            if own is not None:
                part = (queries[head] @ own[head].T).softmax(-1)
                seen = part if seen is None else seen.add_(part)
            for text in texts if kind != ALONE_IMAGE else ():
                keys = k[head, text.start : text.start + text.count]
                shares = (queries[head] @ keys.T).softmax(-1)
                for number, at in text.words:
                    found = shares[:, list(at)].mean(1)
                    words[number] = words[number] + found if number in words else found
        for number, found in words.items():
            found = self.weight * found / found.mean().clamp(min=1e-12)
            self.words[number] = self.words[number] + found if number in self.words else found
        if seen is not None:
            seen = self.weight * seen / len(q)
            self.own = seen if self.own is None else self.own + seen

    def _coarse(self, tokens: torch.Tensor, image: ImagePlan) -> torch.Tensor:
        """(heads, cells, width) on the grid of the maps, which it notes."""
        rows, columns, step = image.rows, image.columns, 1
        while -(-rows // step) * -(-columns // step) > MOST_CELLS:
            step += 1
        self.grid = (-(-rows // step), -(-columns // step))
        if step == 1:
            return tokens
        planes = tokens.transpose(1, 2).unflatten(2, (rows, columns))
        pooled = F.avg_pool2d(planes, step, ceil_mode=True, count_include_pad=False)
        return pooled.flatten(2).transpose(1, 2)

    def maps(self) -> Maps | None:
        """On the CPU; None where nothing was seen."""
        if not self.words:
            return None
        words = torch.stack([self.words[n] for n in sorted(self.words)]).unflatten(1, self.grid)
        own = None if self.own is None else self.own / self.own.sum(1, keepdim=True)
        return Maps(words.cpu(), None if own is None else own.cpu())


class JointWatch(TokenMaps):
    """A wrapper on a clone of a diffusion transformer, for one run: sums of the positive prompt's
    half, first picture of the batch.

    positions: per mention, of its tokens in the text; negative ones count from its end.
    """

    def __init__(self, family: Family, positions: Sequence[Sequence[int]]):
        assert family.sequence is not None
        super().__init__()
        self.family, self.sequence = family, family.sequence
        self.positions = [tuple(own) for own in positions]

    def __deepcopy__(self, memo: dict[int, Any]) -> JointWatch:
        return self

    def run_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """DIFFUSION_MODEL wrapper."""
        given = Arguments(executor.original, args, kwargs)
        options, model = given["transformer_options"] or {}, executor.class_obj
        chunks = options.get("cond_or_uncond") or [POSITIVE]
        if POSITIVE not in chunks:
            return executor(*args, **kwargs)
        image, _ = plan_image(self.family, model, given["x"], given)
        row = chunks.index(POSITIVE) * (given["x"].shape[0] // len(chunks))
        length = given["context"].shape[1]

        def watch(kind: str, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
            count = k.shape[2] - (image.total if kind == JOINT else 0)
            if count >= length or kind == ALONE_IMAGE:
                text = WatchedText(0, count, places_in(self.positions, length))
                self.note(kind, q[row], k[row], image, (text,))

        attention = GroupedAttention(lambda *_: None, 0.0, options.get(OVERRIDE), watch)
        given["transformer_options"] = {**options, OVERRIDE: attention}
        attending = self.sequence.attending(path for path, _ in model.named_modules())
        with attention.watching(model, attending):
            return executor(*given.args, **given.kwargs)


def places_in(
    positions: Sequence[Sequence[int]], length: int
) -> tuple[tuple[int, tuple[int, ...]], ...]:
    """`WatchedText.words` of a text of `length` tokens: per number, positions from its start."""
    found = []
    for number, own in enumerate(positions):
        at = tuple(p if p >= 0 else length + p for p in own)
        at = tuple(p for p in at if 0 <= p < length)
        if at:
            found.append((number, at))
    return tuple(found)
