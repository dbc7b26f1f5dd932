"""The regions' texts in a call of a diffusion transformer: one after the other behind the global.

Each text keeps the positions and the padding that it would have alone, whatever stands beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch

from ...compose.drawn import Conditioning, Drawn
from ...compose.tokens import TextPlan
from ...errors import ArchitectureError
from ...families.family import TokenSequence
from .block import rows_of
from .roles import NEGATIVE, POSITIVE

NOT_TEXT = ("reference_latents", "concat_latent_image", "concat_mask")  # entries of the picture's


class RegionTexts:
    """The regions' texts as the model reads them, made once per sampling run.

    base: ComfyUI's model, which may change a text (pad it, run an adapter); None: as it is.
    """

    def __init__(self, drawn: Sequence[Drawn]):
        self.drawn = drawn
        self.base = None
        self._made: dict[tuple, torch.Tensor] = {}

    def own(
        self, region: int, half: int, noise: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """(1, tokens, width) on the noise's device; None where the global text stays."""
        text = self.drawn[region].text
        source = {POSITIVE: text.positive, NEGATIVE: text.negative}.get(half)
        if source is None:
            return None
        key = (region, half, noise.device, dtype)
        if key not in self._made:
            made = self._encode(source, noise).to(noise.device, dtype)
            with torch.inference_mode(False):
                self._made[key] = made.clone()
        return self._made[key]

    def _encode(self, source: Conditioning, noise: torch.Tensor) -> torch.Tensor:
        tensor, extras = source[0]
        if self.base is None:
            return tensor
        entries = {key: value for key, value in extras.items() if key not in NOT_TEXT}
        entries.setdefault("pooled_output", None)
        conds = self.base.extra_conds(
            **{**entries, "cross_attn": tensor, "device": noise.device, "noise": noise}
        )
        return conds["c_crossattn"].cond


@dataclass(frozen=True, eq=False)
class CallTexts:
    """context: (batch, tokens, width), all texts. given, padded: per chunk of the batch, the plan
    of the context and the one behind the model's padding."""

    context: torch.Tensor
    given: tuple[TextPlan, ...]
    padded: tuple[TextPlan, ...]


def join_texts(
    texts: RegionTexts,
    context: torch.Tensor,
    halves: Sequence[int],
    noise: torch.Tensor,
    multiple: int,
    shown: Sequence[bool],
) -> CallTexts:
    """The texts of a call. halves: of each chunk of the batch. multiple: each text is padded to one
    of it. shown: per region, whether it has cells.

    A region without a text of its own reads the global one; through a copy, if it has a concept,
    whose deltas are for its own words alone.
    """
    batch, length = context.shape[:2]
    each = batch // len(halves)
    rows: list[list[torch.Tensor | None]] = []
    for region, one in enumerate(texts.drawn):
        own = []
        for chunk, half in enumerate(halves):
            text = texts.own(region, half, noise, context.dtype) if shown[region] else None
            if text is not None and text.shape[2] != context.shape[2]:
                raise ArchitectureError(
                    f"the text of the region '{one.region.name}' is {text.shape[2]} wide, this "
                    f"MODEL reads {context.shape[2]}; connect MODEL and CLIP of the same checkpoint"
                )
            if text is None and shown[region] and changes(one):
                text = context[rows_of(chunk, halves, batch)]
            own.append(None if text is None else text.expand(each, -1, -1))
        rows.append(own)
    counts = [[0 if text is None else text.shape[1] for text in own] for own in rows]
    rooms = [max(own) for own in counts]
    blocks = [
        torch.cat([_filled(text, room, context, each) for text in own])
        for own, room in zip(rows, rooms, strict=True)
        if room
    ]
    lengths = [(length, *(own[chunk] for own in counts)) for chunk in range(len(halves))]
    given = tuple(TextPlan(tuple(zip(words, (length, *rooms), strict=True))) for words in lengths)
    padded = tuple(
        TextPlan(tuple((_up(words, multiple), _up(room, multiple)) for words, room in plan.words))
        for plan in given
    )
    return CallTexts(torch.cat([context, *blocks], 1), given, padded)


def changes(one: Drawn) -> bool:
    """Whether the region has deltas."""
    return one.concept is not None and bool(one.concept.model) and one.region.strength != 0


def _filled(text: torch.Tensor | None, room: int, like: torch.Tensor, each: int) -> torch.Tensor:
    """(each, room, width): the text, zeros behind it."""
    filled = like.new_zeros(each, room, like.shape[2])
    if text is not None:
        filled[:, : text.shape[1]] = text
    return filled


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


@contextmanager
def texts_in_place(
    model: Any, sequence: TokenSequence, texts: CallTexts, image: int
) -> Iterator[None]:
    """Positions and padding of the texts, for one call. image: tokens of it that count on."""
    handles = []
    try:
        if sequence.positions:
            module = comfy.utils.get_attr(model, sequence.positions)
            hook = rewrite_positions(texts.padded, len(texts.context), sequence.counts_on, image)
            handles.append(module.register_forward_pre_hook(hook))
        if sequence.padded_behind and texts.given != texts.padded:
            module = comfy.utils.get_attr(model, sequence.padded_behind)
            handles.append(module.register_forward_hook(pad_each(texts, model.cap_pad_token)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def rewrite_positions(
    plans: Sequence[TextPlan], batch: int, counts_on: bool, image: int
) -> Callable:
    """Pre-hook of the module that gets the positions: all at once, or text first, then image.

    plans: of each chunk of the batch.
    """
    length, total = plans[0].words[0][1], plans[0].total
    apart = counts_on and any(plan != plans[0] for plan in plans)
    text_done = False

    def hook(module: torch.nn.Module, args: tuple) -> tuple:
        nonlocal text_done
        ids = args[0]
        if apart and len(ids) != batch:
            ids = ids.expand(batch, -1, -1)
        given, ids = ids, ids.clone()
        for chunk, plan in enumerate(() if text_done else plans if apart else plans[:1]):
            at = rows_of(chunk, plans, batch) if apart else slice(None)
            for start, (words, room) in list(zip(plan.starts, plan.words, strict=True))[1:]:
                ids[at, start : start + room] = given[at, :room]
                if counts_on:  # the end of a text is what the image is next to
                    ids[at, start : start + room, 0] += length - words
        first = 0 if text_done else total
        if counts_on and ids.shape[1] >= first + image:
            ids[:, first : first + image, 0] -= total - length
        text_done = True
        return (ids, *args[1:])

    return hook


def pad_each(texts: CallTexts, token: torch.Tensor) -> Callable:
    """Hook behind the text's embedder: each text is padded by itself."""

    def hook(module: torch.nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
        given, padded = texts.given[0], texts.padded[0]
        if output.shape[1] != given.total:
            return output
        result = output.new_zeros(output.shape[0], padded.total, output.shape[2])
        filling = token.to(output)
        chunks = len(texts.given)
        for chunk, (raw, plan) in enumerate(zip(texts.given, texts.padded, strict=True)):
            at = rows_of(chunk, range(chunks), output.shape[0])
            for old, new in zip(raw.ranges, plan.ranges, strict=True):
                words = slice(new.start, new.start + len(old))
                result[at, words] = output[at, old.start : old.stop]
                result[at, words.stop : new.stop] = filling
        return result

    return hook
