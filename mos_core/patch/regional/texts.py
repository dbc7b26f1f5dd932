"""Texts of the regions, encoded once: each by the text encoder of its own concept."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...compose.assign import named_in
from ...compose.drawn import Conditioning, Drawn, RegionText
from ...records import Concepts
from ...regions.region import Regions
from ..apply import apply_to_clip


def draw_prompts(clip: Any, regions: Regions) -> tuple[Drawn, ...]:
    """Regions with prompts alone, all encoded by one CLIP."""
    texts = encode_region_texts(clip, regions)
    return tuple(
        Drawn(region, text, words=word_positions(clip.tokenizer, region.prompt))
        for region, text in zip(regions.regions, texts, strict=True)
    )


def word_positions(tokenizer: Any, prompt: str) -> tuple[int, ...]:
    """Where words stand in an encoded prompt, sections of 77 counted through; what begins, ends and
    fills a section is no word. Empty for tokenizers of other kinds than CLIP's."""
    inner = getattr(tokenizer, "clip_l", None)
    if inner is None or not prompt.strip():
        return ()
    marks = {inner.start_token, inner.end_token, getattr(inner, "pad_token", None)}
    sections = tokenizer.tokenize_with_weights(prompt)["l"]
    tokens = [pair[0] for section in sections for pair in section]
    return tuple(i for i, t in enumerate(tokens) if not isinstance(t, int) or t not in marks)


def encode_region_texts(
    clip: Any,
    regions: Regions,
    concepts: Concepts = (),
    assigned: Sequence[int | None] | None = None,
) -> tuple[RegionText, ...]:
    """clip: as given, it encodes regions without a concept; a clone with the deltas and tokens of
    concept `assigned[i]` encodes region i. A text that names another concept too (a negative one)
    has that one's embeddings, not its deltas. Every text is encoded once.

    Raises ConceptTokenError for concept tokens that the region's CLIP does not know.
    """
    assigned = assigned or [None] * len(regions.regions)
    clips: dict[tuple[int | None, tuple[int, ...]], object] = {(None, ()): clip}
    done: dict[tuple[int | None, str], Conditioning] = {}

    def encode(number: int | None, text: str) -> Conditioning | None:
        if not text.strip():
            return None
        if (number, text) not in done:
            named = named_in(text, concepts)
            others = tuple(sorted(n for n in named if n != number and concepts[n].concept.tables))
            if (number, others) not in clips:
                own = () if number is None else (concepts[number],)
                silent = (replace(concepts[n], strength_clip=0.0) for n in others)
                clips[number, others] = apply_to_clip(clip, (*own, *silent))
            done[number, text] = encode_text(clips[number, others], text)
        return done[number, text]

    return tuple(
        RegionText(encode(number, region.prompt), encode(number, region.negative))
        for region, number in zip(regions.regions, assigned, strict=True)
    )


def encode_text(clip: Any, text: str) -> Conditioning:
    """What the stock text encode node gives: entries of (1, tokens, width), wide if the CLIP is
    layer-wise, with what belongs to them."""
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))
