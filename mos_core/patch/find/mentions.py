"""Where a prompt names the concepts, as the running CLIP cuts it into tokens."""

from collections.abc import Hashable, Sequence
from typing import Any

import torch

from ...errors import RegionError
from ...find.words import Mention, find_mentions
from ...records import Concept, Concepts
from ...text.tokenizer import concept_table


def locate_concepts(clip: Any, prompt: str, concepts: Concepts) -> tuple[list[Mention], int]:
    """The mentions in the order of the prompt, and how many tokens its encoding has.

    clip: a comfy.sd.CLIP that knows the concepts' tokens. Raises RegionError for a concept that the
    prompt does not name.
    """
    tokens = token_keys(clip, prompt)
    words = [
        [words_as_tokens(clip, word) for word in words_of(entry.concept)] for entry in concepts
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


def token_keys(clip: Any, text: str) -> list[Hashable]:
    """The tokens of the first text encoder, sections after each other; concept tokens and other
    embeddings by their identity."""
    sections = next(iter(clip.tokenize(text).values()))
    return [_key(pair[0]) for section in sections for pair in section]


def words_as_tokens(clip: Any, word: str) -> Sequence[Hashable]:
    """A word's own tokens, without begin, end and padding."""
    empty, whole = token_keys(clip, ""), token_keys(clip, word)
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
