"""Captions: the concept's place, templates for the concept alone, shuffled parts."""

import random
from collections.abc import Sequence

from ..errors import TrainError

PLACE = "<TOK>"  # stands for the concept in a caption

# For captions that are the concept alone (Mix-of-Show puts such captions into templates).
TEMPLATES = (
    "a photo of a {}",
    "a rendering of a {}",
    "a cropped photo of the {}",
    "the photo of a {}",
    "a close-up photo of the {}",
    "a bright photo of the {}",
    "a good photo of a {}",
    "a photo of one {}",
    "a depiction of a {}",
    "a photo of the nice {}",
)


def parse_captions(texts: Sequence[str], pictures: int) -> list[str]:
    """One caption per picture, from one text for all, a list, or a text with a line per picture.

    Raises TrainError if the numbers do not match or a caption lacks `<TOK>`.
    """
    captions = [text.strip() for text in texts]
    if len(captions) == 1 and pictures > 1:
        lines = [line.strip() for line in captions[0].splitlines() if line.strip()]
        captions = lines if len(lines) > 1 else captions * pictures
    if len(captions) != pictures:
        raise TrainError(
            f"there are {len(captions)} captions for {pictures} pictures; give one caption for "
            "all of them, or one per picture (a line each)"
        )
    for number, caption in enumerate(captions, 1):
        if not caption:
            raise TrainError(
                f"caption {number} is empty; write what its picture shows, with {PLACE} in the "
                f"concept's place, as in 'photo of a {PLACE}'"
            )
        if PLACE not in caption:
            raise TrainError(
                f"caption {number} ('{caption}') does not say where the concept is; write {PLACE} "
                f"in its place, as in 'photo of a {PLACE}'"
            )
    return captions


def compose_caption(caption: str, tokens: Sequence[str], shuffle: bool, rng: random.Random) -> str:
    """The prompt of one training step: `<TOK>` -> the concept tokens, templates, shuffled parts."""
    if caption == PLACE:
        caption = rng.choice(TEMPLATES).format(PLACE)
    if shuffle:
        first, *rest = [part.strip() for part in caption.split(",")]
        rng.shuffle(rest)
        caption = ", ".join([first, *rest])
    return caption.replace(PLACE, " ".join(tokens))
