"""How a new concept is called, and how its tokens start."""

from collections.abc import Callable, Sequence

import torch

from ..errors import TrainError


def parse_tokens(text: str, layerwise: bool = True) -> tuple[str, ...]:
    """'<potter1> <potter2>' -> ('<potter1>', '<potter2>'), with embeddings of their own; words
    without brackets -> the words of an ordinary LoRA, as they are ('a knight',).

    Raises TrainError. layerwise: an ordinary LoRA is not wanted.
    """
    words = tuple(text.split())
    plain = [word for word in words if not set(word) & set("<>")]
    if plain and len(plain) == len(words) and not layerwise:
        return (" ".join(words),)
    for word in words:
        if len(word) < 3 or word[0] != "<" or word[-1] != ">" or set(word) & set("()\\:"):
            more = " For an ordinary LoRA with trigger words, switch 'layerwise' off"
            raise TrainError(
                f"'{word}' cannot be a concept token; tokens look like <potter1>: in angle "
                "brackets, without round brackets, colons or backslashes."
                f"{more if plain and layerwise else ''}"
            )
    if not words or len({word.casefold() for word in words}) != len(words):
        raise TrainError(f"give one or more different concept tokens; found '{text}'")
    return words


def have_embeddings(words: Sequence[str]) -> bool:
    """Whether these are concept tokens, and not the words of an ordinary LoRA."""
    return all(word.startswith("<") for word in words)


def start_embeddings(
    tokens: Sequence[str],
    initializer: str,
    word_embedding: Callable[[str], torch.Tensor],
    width: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """token -> (width,) start values.

    initializer: one entry per token, by spaces: `<rand-0.013>` (normal of that deviation) or a
    word. word_embedding: word -> (width,), raises TrainError unless it is one token.
    """
    entries = initializer.split()
    if len(entries) != len(tokens):
        raise TrainError(
            f"there are {len(entries)} initialisers ('{initializer}') for {len(tokens)} concept "
            f"tokens ({' '.join(tokens)}); give one per token, as in '<rand-0.013> man'"
        )
    generator = torch.Generator().manual_seed(seed)
    starts = {}
    for token, entry in zip(tokens, entries, strict=True):
        if entry.startswith("<rand-") and entry.endswith(">"):
            deviation = deviation_of(entry)
            starts[token] = torch.randn(width, generator=generator) * deviation
        else:
            starts[token] = word_embedding(entry)
    return starts


def deviation_of(entry: str) -> float:
    """'<rand-0.013>' -> 0.013. Raises TrainError."""
    try:
        deviation = float(entry[len("<rand-") : -1])
    except ValueError:
        deviation = -1.0
    if not 0 <= deviation <= 10:
        raise TrainError(f"'{entry}' is no initialiser; write it like <rand-0.013>")
    return deviation
