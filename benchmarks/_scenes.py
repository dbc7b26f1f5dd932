"""The questions of regions_identity: concepts from left to right, a background, a layout; and who
stands where in a picture that was drawn for one. Regions are the equal parts of the picture, at the
places where the concepts were learnt.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from _judge import flat_score, scores_of

from mix_of_show.mos_core.records import WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions

HEIGHT = 128
PAIR = (" on the left", " on the right")
THREE = (" on the left", " in the middle", " on the right")
FIVE = (" on the far left", *THREE, " on the far right")
LAYOUTS = {2: (128, PAIR), 3: (384, THREE), 5: (512, FIVE)}  # concepts -> width, places
BACKGROUNDS = ("snow", "green", "beach", "night", "meadow", "red")
JUDGED = 72  # pixels; side of the square in which a character is looked for
TOPS = (25, 33, 41)  # of that square
STRIDE = 8
FOUND = 0.12  # score from which a character that explains its square best counts as found
BESIDE = 4  # pixels; so far beside its region a character's middle may be
APART = 44  # pixels between the middles of one character drawn twice
BETWEEN = 32  # pixels between the middles of two characters
NOBODY = ""  # whom one flat colour speaks for, beside the characters


class Question:
    """One picture to draw. `stacked`: the one prompt that names everybody. `scene`: the background
    alone. `regions`: in each prompt the region's own character stands at every place, because the
    small model reads from a whole sentence where characters stand. cast: concepts, or names of
    characters that the base model knows; beside one of these no concept is called up by its words,
    which may be that character's. gap: pixels that are left free at both sides of each."""

    def __init__(self, cast: Sequence[WeightedConcept | str], background: str, gap: int = 0):
        count = len(cast)
        words = [one if isinstance(one, str) else one.concept.trigger_words for one in cast]
        self.concepts = [one for one in cast if not isinstance(one, str)]
        if len(self.concepts) < count:
            self.concepts = [quiet(one) for one in self.concepts]
        self.names = [one if isinstance(one, str) else one.concept.name for one in cast]
        self.width, places = LAYOUTS[count]
        edges = [round(self.width * i / count) for i in range(count + 1)]
        self.spans = list(itertools.pairwise(edges))
        self.scene = f"{background} background"
        self.stacked = sentence(words, places, self.scene)
        regions = [
            Region(
                sentence([word] * len(places), places, self.scene),
                box=Box((left + gap) / self.width, 0.0, (right - gap) / self.width, 1.0),
                concept=None if isinstance(one, str) else one.concept.name,
            )
            for one, word, (left, right) in zip(cast, words, self.spans, strict=True)
        ]
        self.regions = Regions(self.width, HEIGHT, tuple(regions))


def quiet(entry: WeightedConcept) -> WeightedConcept:
    """The same without trigger words: by its tokens and its name alone."""
    return replace(entry, concept=replace(entry.concept, words=entry.concept.tokens))


def sentence(words: Sequence[str], places: Sequence[str], scene: str) -> str:
    """a fox on the left, a dog on the right, red background"""
    parts = [f"a {word}{place}" for word, place in zip(words, places, strict=True)]
    return ", ".join([*parts, scene])


def questions_of(
    count: int, sets: int, concepts, gap: int = 0, names: Sequence[str] = ()
) -> list[Question]:
    """`sets` different choices of concepts, each in its order; nobody twice. names: these and no
    others, on as many backgrounds."""
    if names:
        return questions_about(names, sets, concepts, gap)
    number = len(concepts)
    wide = next(step for step in itertools.count(3) if math.gcd(step, number) == 1)
    return [
        Question(
            [concepts[(wide * s + i * (wide if s % 2 else 1)) % number] for i in range(count)],
            BACKGROUNDS[s % len(BACKGROUNDS)],
            gap,
        )
        for s in range(sets)
    ]


def questions_about(names: Sequence[str], sets: int, concepts, gap: int) -> list[Question]:
    """These characters in this order, on `sets` backgrounds; who is no concept is the base
    model's."""
    known = {entry.concept.name: entry for entry in concepts}
    cast = [known.get(name, name) for name in names]
    return [Question(cast, background, gap) for background in BACKGROUNDS[:sets]]


def looked_at(picture: np.ndarray) -> list[tuple[int, list[dict[str, float]]]]:
    """Every place along the picture, in pixels from the left to the middle of the square: the
    judge's scores there, at every height, NOBODY's among them."""
    width = picture.shape[1]
    places = []
    for left in range(0, width - JUDGED + 1, STRIDE):
        boxes = [
            (left / width, top / HEIGHT, (left + JUDGED) / width, (top + JUDGED) / HEIGHT)
            for top in TOPS
        ]
        scores = [scores_of(picture, box) | {NOBODY: flat_score(picture, box)} for box in boxes]
        places.append((left + JUDGED // 2, scores))
    return places


def where(looked, names: Sequence[str]) -> dict[str, list[int]]:
    """Of each of these characters the middles, in pixels from the left, of the squares that it
    explains best; a place, BETWEEN wide, belongs to the one of them that explains it best."""
    hits = []
    for middle, at_heights in looked:
        for name in names:
            scores = max(at_heights, key=lambda scores: scores[name])
            if scores[name] >= FOUND and scores[name] == max(scores.values()):
                hits.append((scores[name], middle, name))
    found: list[tuple[int, str]] = []
    for _, middle, name in sorted(hits, reverse=True):
        least = [APART if name == other else BETWEEN for _, other in found]
        if all(abs(middle - other) > far for (other, _), far in zip(found, least, strict=True)):
            found.append((middle, name))
    return {name: sorted(m for m, other in found if other == name) for name in names}


def judge(picture: np.ndarray, question: Question) -> tuple[list[bool], int]:
    """Whether each region has its character, and how many characters stand where they were not
    asked for."""
    right, elsewhere = [], 0
    found = where(looked_at(picture), question.names)
    for name, (left, end) in zip(question.names, question.spans, strict=True):
        inside = [left - BESIDE <= middle <= end + BESIDE for middle in found[name]]
        right.append(any(inside))
        elsewhere += len(inside) - sum(inside)
    return right, elsewhere


def save_sheet(pictures: list[np.ndarray], file: Path) -> None:
    """Pictures (height, width, 3) in 0..1, one below the other, into one file."""
    from PIL import Image

    width = max(p.shape[1] for p in pictures)
    padded = [
        np.pad(p, ((0, 4), (0, width - p.shape[1]), (0, 0)), constant_values=1) for p in pictures
    ]
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.concatenate(padded) * 255).round().astype(np.uint8)).save(file, quality=85)
