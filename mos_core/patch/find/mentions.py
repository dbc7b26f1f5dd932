"""Where a prompt names the concepts, as the running CLIP cuts it into tokens."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ...errors import RegionError
from ...families import Family
from ...find.words import Mention, find_mentions
from ...records import Concept, Concepts
from ...text.tokenizer import concept_table


def locate_concepts(
    clip: Any, prompt: str, concepts: Concepts, encoder: str = ""
) -> tuple[list[Mention], int]:
    """The mentions in the order of the prompt, and how many tokens its encoding has.

    clip: a comfy.sd.CLIP that knows the concepts' tokens. encoder: the entry of a token list that
    counts; empty: the first one. Raises RegionError for a concept that the prompt does not name.
    """
    tokens = token_keys(clip, prompt, encoder)
    words = [
        [way for word in words_of(entry.concept) for way in spellings(clip, word, encoder)]
        for entry in concepts
    ]
    mentions = find_mentions(tokens, words, [not entry.concept.tokens for entry in concepts])
    named = {mention.concept for mention in mentions}
    for number, entry in enumerate(concepts):
        if number not in named:
            raise RegionError(
                f"The prompt does not name the concept '{entry.concept.name}'. Write "
                f"{' '.join(words_of(entry.concept))} where it should appear, or take the concept "
                "out of the chain."
            )
    return mentions, len(tokens)


def words_of(concept: Concept) -> list[str]:
    """What names a concept in a prompt: its tokens, else its trigger words, else its name."""
    if concept.tokens:
        return list(concept.tokens)
    words = [part.strip() for word in concept.words for part in word.split(",")]
    return [word for word in words if word] or [concept.name]


def text_places(
    clip: Any, prompt: str, concepts: Concepts, family: Family
) -> tuple[list[Mention], list[tuple[int, ...]]]:
    """The mentions in a transformer's prompt, and where their words stand in the text that the
    model reads; negative places count from its end. Raises RegionError as locate_concepts."""
    assert family.sequence is not None
    encoder = family.sequence.words or family.texts[0].tokens
    mentions, tokens = locate_concepts(clip, prompt, concepts, encoder)
    less = tokens if family.sequence.words_end else 0
    return mentions, [tuple(p - less for p in mention.positions) for mention in mentions]


def region_places(clip: Any, prompt: str, concept: Concept, family: Family) -> tuple[int, ...]:
    """Where a concept's words stand in the text of its own region, as in text_places; those of the
    whole prompt where it does not have them."""
    assert family.sequence is not None
    encoder = family.sequence.words or family.texts[0].tokens
    tokens = token_keys(clip, prompt, encoder)
    for names in (words_of(concept), [prompt]):
        words = [way for name in names for way in spellings(clip, name, encoder)]
        for mention in find_mentions(tokens, [words], [True]):
            less = len(tokens) if family.sequence.words_end else 0
            return tuple(p - less for p in mention.positions)
    return ()


def spellings(clip: Any, word: str, encoder: str = "") -> list[Sequence[Hashable]]:
    """A word's tokens at the start of a text, and behind a space where those are others."""
    first = words_as_tokens(clip, word, encoder)
    inside = words_as_tokens(clip, f" {word}", encoder)
    return [first] if tuple(first) == tuple(inside) else [first, inside]


def token_keys(clip: Any, text: str, encoder: str = "") -> list[Hashable]:
    """The tokens of a text encoder, by default the first one, sections after each other; concept
    tokens and other embeddings by their identity."""
    lists = clip.tokenize(text)
    sections = lists[encoder] if encoder in lists else next(iter(lists.values()))
    return [_key(pair[0]) for section in sections for pair in section]


def words_as_tokens(clip: Any, word: str, encoder: str = "") -> Sequence[Hashable]:
    """A word's own tokens, without begin, end and padding."""
    empty, whole = token_keys(clip, "", encoder), token_keys(clip, word, encoder)
    start = next(
        (i for i, pair in enumerate(zip(empty, whole, strict=False)) if pair[0] != pair[1]), 0
    )
    frame = empty[start] if start < len(empty) else None
    own = whole[start:]
    return own[: own.index(frame)] if frame in own else own


def _key(token: Any) -> Hashable:
    table = concept_table(token)
    if table is not None:
        return ("concept", id(table))
    return ("embedding", id(token)) if torch.is_tensor(token) else token
