"""Where a concept's words stand in an encoded prompt."""

import itertools
from collections.abc import Sequence

from ..records import Concept
from .tokenizer import concept_word

Sections = Sequence[Sequence[tuple]]  # sections of (token, weight) pairs, as ComfyUI tokenises


def positions_of(tokenizer, prompt: str, concept: Concept) -> tuple[int, ...]:
    """Positions of the concept's tokens, or of its trigger words if it has no tokens.

    tokenizer: one that knows the concept's tokens. Sections of 77 are counted through; where a
    model has several text encoders, a token has the same place in all of them.
    """
    tokens = flat(first_sections(tokenizer, prompt))
    if concept.tables:
        own = {token.casefold() for token in concept.tokens}
        return tuple(i for i, token in enumerate(tokens) if (concept_word(token) or "") in own)
    found: set[int] = set()
    for word in concept.words:
        wanted = plain_ids(tokenizer, word)
        for start in range(len(tokens) - len(wanted) + 1 if wanted else 0):
            if list(tokens[start : start + len(wanted)]) == wanted:
                found |= set(range(start, start + len(wanted)))
    return tuple(sorted(found))


def first_sections(tokenizer, text: str) -> Sections:
    return next(iter(tokenizer.tokenize_with_weights(text).values()))


def flat(sections: Sections) -> list:
    """All tokens in their order; tensors (embeddings) can only be told by what is attached."""
    return [pair[0] for section in sections for pair in section]


def plain_ids(tokenizer, word: str) -> list[int]:
    """A word's own token ids, without what every text begins and ends with."""
    ids, empty = flat(first_sections(tokenizer, word)), flat(first_sections(tokenizer, ""))
    begin = next((i for i, both in enumerate(zip(ids, empty, strict=False)) if _differ(*both)), 0)
    end = empty[begin]
    return list(itertools.takewhile(lambda token: token != end, ids[begin:]))


def _differ(one, other) -> bool:
    return not isinstance(one, int) or one != other
