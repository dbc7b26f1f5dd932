"""Which concept each region draws: by its name, or by the words in its prompt that call one."""

import re

from ..errors import RegionError, nearest_names
from ..records import Concepts
from ..regions.region import Region, Regions
from ..text.vocabulary import TOKEN_LIKE, Vocabulary


def assign_concepts(
    regions: Regions, concepts: Concepts
) -> tuple[tuple[int | None, ...], tuple[str, ...]]:
    """The number of each region's concept (None: it has none), and notes for the user.

    Two regions may draw one concept. Raises RegionError, naming the region: its concept is not
    loaded, or it names several. Raises ConceptTokenError if two concepts share a token.
    """
    vocabulary = Vocabulary({}, {})
    for entry in concepts:
        vocabulary = vocabulary.extended(entry.concept)
    owners = owners_of(concepts)
    found = tuple(_concept_of(region, concepts, owners) for region in regions.regions)
    notes = []
    for number, entry in enumerate(concepts):
        if number not in found:
            notes.append(f"The concept '{entry.concept.name}' has no region and is not drawn.")
    for region, drawn in zip(regions.regions, found, strict=True):
        if drawn is not None and drawn not in _named(region.prompt, owners):
            concept = concepts[drawn].concept
            if concept.words:
                notes.append(
                    f"The prompt of the region '{region.name}' has no word of its concept: write "
                    f"{concept.trigger_words} where it should appear. It is not guided without."
                )
    return found, tuple(notes)


def owners_of(concepts: Concepts) -> dict[str, int]:
    """Word, in lower case -> the number of its concept: concept tokens, and trigger words that one
    concept alone has."""
    owners: dict[str, int] = {}
    shared = set()
    for number, entry in enumerate(concepts):
        for word in map(str.casefold, (*entry.concept.tokens, *entry.concept.words)):
            if owners.setdefault(word, number) != number:
                shared.add(word)
    return {word: number for word, number in owners.items() if word not in shared}


def named_in(text: str, concepts: Concepts) -> list[int]:
    """Numbers of the concepts that a text names, each once, in their order there."""
    return _named(text, owners_of(concepts))


def _named(prompt: str, owners: dict[str, int]) -> list[int]:
    """The concepts whose tokens stand in a prompt, each once, in their order."""
    if not owners:
        return []
    longest_first = sorted(owners, key=len, reverse=True)
    words = re.findall("|".join(map(_whole_word, longest_first)), prompt.casefold())
    return list(dict.fromkeys(owners[word] for word in words))


def _whole_word(word: str) -> str:
    """A pattern: a concept token anywhere, a trigger word not inside of another word."""
    before = r"(?<!\w)" if word[:1].isalnum() else ""
    after = r"(?!\w)" if word[-1:].isalnum() else ""
    return before + re.escape(word) + after


def _concept_of(region: Region, concepts: Concepts, owners: dict[str, int]) -> int | None:
    for where, text in (("", region.prompt), ("'s negative prompt", region.negative)):
        for match in TOKEN_LIKE.finditer(text):
            if match[0].casefold() in owners:
                continue
            raise RegionError(
                f"The region '{region.name}'{where} names {match[0]}, but no loaded concept has "
                f"that token; nearest: {nearest_names(match[0], owners)}. Load the concept with "
                "Load ED-LoRA / LoRA, correct the name, or write it without angle brackets."
            )
    named = _named(region.prompt, owners)
    if region.concept is not None:
        wanted = region.concept.casefold()
        names = [entry.concept.name for entry in concepts]
        by_name = [i for i, name in enumerate(names) if name.casefold() == wanted]
        number = next(iter(by_name), owners.get(wanted))
        if number is None:
            raise RegionError(
                f"The region '{region.name}' should draw the concept '{region.concept}', which is "
                f"not loaded; nearest: {nearest_names(region.concept, names)}. Load it with Load "
                "ED-LoRA, correct the name, or leave the region's concept empty."
            )
        named = [number, *(other for other in named if other != number)]
    if len(named) > 1:
        both = " and ".join(f"'{concepts[i].concept.name}'" for i in named)
        raise RegionError(
            f"The region '{region.name}' names the concepts {both}. A region draws one concept: "
            "give each a region of its own."
        )
    return named[0] if named else None
