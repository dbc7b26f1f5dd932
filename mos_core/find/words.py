"""Which words of a prompt name which concept, and what is left of the prompt for one of them."""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

CONCEPT, PART = "%concept%", "%part%"  # in a template of region prompts


@dataclass(frozen=True)
class Mention:
    """One naming of a concept. concept: its number. positions: of its tokens in the encoded prompt.
    occurrence: the how-many-th naming of that concept, from 0."""

    concept: int
    positions: tuple[int, ...]
    occurrence: int = 0


def find_mentions(
    prompt: Sequence[Hashable],
    words: Sequence[Sequence[Sequence[Hashable]]],
    together: Sequence[bool],
) -> list[Mention]:
    """The mentions of all concepts, in the order of the prompt.

    prompt: its tokens. words: per concept its words, each as tokens. together: per concept, whether
    all its words, wherever they stand, are one mention (the words of an ordinary LoRA describe one
    person in many places). Otherwise a mention ends where one of its words comes again: `<a1> <a2>`
    is one, `<a1> <a2>, <a1> <a2>` are two.
    """
    mentions = []
    for number, (own, whole) in enumerate(zip(words, together, strict=True)):
        hits = sorted(
            (start, tuple(range(start, start + len(word))), tuple(word))
            for word in own
            for start in range(len(prompt) - len(word) + 1)
            if word and tuple(prompt[start : start + len(word)]) == tuple(word)
        )
        groups: list[list] = []
        for _, positions, word in hits:
            if not groups or (not whole and word in [w for _, w in groups[-1]]):
                groups.append([])
            groups[-1].append((positions, word))
        for occurrence, group in enumerate(groups):
            positions = tuple(dict.fromkeys(p for places, _ in group for p in places))
            mentions.append(Mention(number, positions, occurrence))
    return sorted(mentions, key=lambda mention: mention.positions)


def region_prompt(
    prompt: str,
    own: Sequence[str],
    others: Sequence[Sequence[str]],
    occurrence: int = 0,
    template: str = "",
) -> str:
    """What the region of a mention says.

    template: its text, `%concept%` standing for the concept's words and `%part%` for the parts of
    the prompt between commas that name this mention or no concept at all. Empty: the prompt with
    this concept's words alone, with the article they have there, in the place of every part that
    names somebody else, so that as many are asked for as there are in the picture and nothing is
    said of how the others look. own:
    words of the concept; others: of each other concept.
    """
    text = template.strip()
    if text:
        part = _parts(prompt, own, others, occurrence, False)
        return text.replace(PART, part).replace(CONCEPT, " ".join(own))
    return _parts(prompt, own, others, occurrence, True)


def _parts(
    prompt: str,
    own: Sequence[str],
    others: Sequence[Sequence[str]],
    occurrence: int,
    everybody: bool,
) -> str:
    """The prompt's parts for one mention; everybody: the concept stands in for the others."""
    words, theirs = " ".join(own), [word for other in others for word in other]
    instead = _article(prompt, own) + words
    kept, seen = [], 0
    for part in (part.strip() for part in prompt.split(",")):
        mine = len(_hits(part, own[:1]))
        beside = sum(len(_hits(part, other[:1])) for other in others)
        mentioned = seen <= occurrence < seen + mine
        seen += mine
        if mentioned and mine == 1 and not _hits(part, theirs):
            kept.append(part)
        elif mine or beside:
            kept += [instead] * (mine + beside if everybody else int(mentioned))
        elif part and not _hits(part, theirs):
            kept.append(part)
    text = ", ".join(kept)
    return text if _hits(text, own) else ", ".join([words, *kept])


def _article(prompt: str, own: Sequence[str]) -> str:
    """The article, with a space, that the prompt gives the concept; else nothing."""
    words = re.escape(own[0]) if own and own[0].strip() else "(?!)"
    first = re.search(rf"\b((?:an?|the) +){words}(?!\w)", prompt, re.IGNORECASE)
    return first[1] if first else ""


def _hits(text: str, words: Sequence[str]) -> list[str]:
    found = [word for word in words if word.strip()]
    if not found:
        return []
    pattern = "|".join(rf"(?<!\w){re.escape(word)}(?!\w)" for word in found)
    return re.findall(pattern, text, re.IGNORECASE)
