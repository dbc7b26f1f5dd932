"""Mistakes with which a picture is drawn all the same, but another one than was meant.

Each is a sentence for the node: what was found, and what to do.
"""

import re
from collections.abc import Hashable, Iterable, Sequence

import torch

from ..records import Concepts
from ..regions.region import Region, Regions
from ..text.vocabulary import TOKEN_LIKE, Vocabulary

GRID = 64  # cells a side, on which overlaps are measured
MUCH_OVERLAP = 0.25  # of the smaller region
MANY_SAMPLINGS = 3  # of one size by one node; two may be a second pass
STRETCH = 1.05  # of the aspect ratio; less is rounding


def composer_notes(
    regions: Regions, concepts: Concepts, assigned: Sequence[int | None]
) -> tuple[str, ...]:
    """What the user should know of regions whose concept is `concepts[assigned[i]]`, or none."""
    tokens = [token for entry in concepts for token in entry.concept.tokens]
    without = [r for r, number in zip(regions.regions, assigned, strict=True) if number is None]
    return (*bare_word_notes(without, tokens), *overlap_notes(regions.regions, assigned))


def fused_notes(regions: Regions, vocabulary: Vocabulary) -> tuple[str, ...]:
    """The same for regions whose concepts are found by the tokens of one CLIP."""
    if not vocabulary.tokens:
        return plain_token_notes(regions.regions)
    owners = [owner_of(region.prompt, vocabulary) for region in regions.regions]
    without = [r for r, owner in zip(regions.regions, owners, strict=True) if owner is None]
    return (
        *bare_word_notes(without, vocabulary.tokens),
        *overlap_notes(regions.regions, owners),
    )


def owner_of(prompt: str, vocabulary: Vocabulary) -> str | None:
    """The name of the concept whose token stands first in the prompt."""
    places = {
        prompt.casefold().find(token.casefold()): owner
        for token, owner in vocabulary.owners.items()
        if token.casefold() in prompt.casefold()
    }
    return places[min(places)] if places else None


def plain_token_notes(regions: Iterable[Region]) -> tuple[str, ...]:
    """Tokens in prompts that a CLIP without concepts will read."""
    return tuple(
        f"The region '{region.name}' names {found[0]}, but this CLIP knows no concepts, so these "
        "are plain words. Connect the MODEL and CLIP of Load Fused Concepts, Fuse Concepts or "
        "Apply Concepts."
        for region in regions
        if (found := TOKEN_LIKE.search(region.prompt))
    )


def bare_word_notes(regions: Iterable[Region], tokens: Iterable[str]) -> tuple[str, ...]:
    """Regions without a concept whose prompt has a token's word, but not its angle brackets."""
    words: dict[str, str] = {}
    for token in tokens:
        name = token.strip("<>")
        for word in (name, name.rstrip("0123456789")):  # <potter1>: potter1, potter
            if word:
                words.setdefault(word.casefold(), token)
    notes = []
    for region in regions:
        said = re.findall(r"[\w\-]+", region.prompt.casefold())
        meant = next((word for word in said if word in words), None)
        if meant is not None:
            notes.append(
                f"The region '{region.name}' has the plain word '{meant}'. The concept is written "
                f"with its angle brackets: {words[meant]}."
            )
    return tuple(notes)


def overlap_notes(
    regions: Sequence[Region], drawn: Sequence[Hashable | None]
) -> tuple[str, ...]:  # fmt: skip
    """Regions that draw different concepts on the same place. drawn: what each draws, or None."""
    held = [
        (region, what, region.weights(GRID, GRID))
        for region, what in zip(regions, drawn, strict=True)
        if what is not None
    ]
    notes = []
    for number, (region, what, cells) in enumerate(held):
        for other, its, others in held[number + 1 :]:
            smaller = min(cells.sum().item(), others.sum().item())
            shared = torch.minimum(cells, others).sum().item()
            if its != what and smaller and shared > MUCH_OVERLAP * smaller:
                notes.append(
                    f"The regions '{region.name}' and '{other.name}' draw different concepts on "
                    f"the same place ({shared / smaller:.0%} of the smaller one): neither comes "
                    "out clean there. Move them apart, or put one in front of the other."
                )
    return tuple(notes)


def tile_notes(width: int, height: int, number: int) -> tuple[str, ...]:
    """One node that samples the same size again and again: tiles, perhaps. number: of samplings."""
    if number < MANY_SAMPLINGS:
        return ()
    return (
        f"One node has sampled {number} times at {width} x {height}. If these are tiles of one "
        "picture, all regions were fitted into every tile: draw with regions first, and use tiles "
        "on a MODEL without them.",
    )


def shape_notes(regions: Regions, width: int, height: int) -> tuple[str, ...]:
    """A layout of another shape than the picture, (width, height) in pixels."""
    ratio = regions.width * height / (regions.height * width)
    if not regions.regions or 1 / STRETCH < ratio < STRETCH:
        return ()
    return (
        f"The layout is made for {regions.width} x {regions.height} pixels, the picture has "
        f"{width} x {height}: the regions are stretched. Give both the same width and height.",
    )
