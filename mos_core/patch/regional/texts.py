"""Texts of the regions, encoded once: each by the text encoder of its own concept."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...records import Concepts
from ...regions.region import Regions
from ..apply import apply_to_clip


@dataclass(frozen=True, eq=False)
class RegionText:
    """A region's two texts, (1, tokens, width) or wide (1, tokens, layers * width), on any device.

    None: the region has none of its own, the global prompt (or negative prompt) stays.
    """

    positive: torch.Tensor | None
    negative: torch.Tensor | None


def encode_region_texts(
    clip,
    regions: Regions,
    concepts: Concepts = (),
    assigned: Sequence[int | None] | None = None,
) -> tuple[RegionText, ...]:
    """clip: as given, it encodes regions without a concept; a clone with the deltas and tokens of
    concept `assigned[i]` encodes region i. Every text is encoded once.

    Raises ConceptTokenError for concept tokens that the region's CLIP does not know.
    """
    assigned = assigned or [None] * len(regions.regions)
    clips: dict[int | None, object] = {None: clip}
    done: dict[tuple[int | None, str], torch.Tensor] = {}

    def encode(number: int | None, text: str) -> torch.Tensor | None:
        if not text.strip():
            return None
        if number is not None and number not in clips:
            clips[number] = apply_to_clip(clip, (concepts[number],))
        if (number, text) not in done:
            done[number, text] = encode_text(clips[number], text)
        return done[number, text]

    return tuple(
        RegionText(encode(number, region.prompt), encode(number, region.negative))
        for region, number in zip(regions.regions, assigned, strict=True)
    )


def encode_text(clip, text: str) -> torch.Tensor:
    """(1, tokens, width) as the stock text encode node has it; wide if the CLIP is layer-wise."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))[0][0]
