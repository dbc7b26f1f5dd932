"""A tokenizer in which every concept token is one token that carries its layer-wise embeddings."""

import copy
import re
from collections.abc import Mapping, Sequence

import torch

from ..errors import ConceptTokenError
from .vocabulary import Vocabulary


def mark_concept_token(
    table: torch.Tensor, word: str = "", index: Sequence[int] | None = None
) -> torch.Tensor:
    """The token that stands for a concept token in a token list.

    table: (rows, text width). word: the concept token as its concept writes it. index: (rows,),
    equal numbers for rows that are equal; None: not known. Returns a (text width,) tensor, which
    ComfyUI inserts as an embedding wherever the rows are not told apart (their mean), with all
    that attached.
    """
    token = table.float().mean(0)
    token.mos_table, token.mos_word = table, word
    token.mos_index = None if index is None else tuple(index)
    return token


def concept_table(token) -> torch.Tensor | None:
    """The (rows, text width) table of a token, or None for any other token."""
    return getattr(token, "mos_table", None)


def concept_word(token) -> str | None:
    """The concept token that a token stands for ("<potter1>"), or None for any other token."""
    return getattr(token, "mos_word", None)


def table_index(token, rows: int) -> tuple[int, ...] | None:
    """(rows,), equal numbers where the token's rows are known to be equal; None for a word."""
    if concept_table(token) is None:
        return None
    return getattr(token, "mos_index", None) or tuple(range(rows))


def equal_rows(table: torch.Tensor) -> tuple[int, ...]:
    """(rows,): for each row of a table the first row that equals it."""
    _, inverse = table.float().unique(dim=0, return_inverse=True)
    seen: dict[int, int] = {}
    return tuple(seen.setdefault(kind, row) for row, kind in enumerate(inverse.tolist()))


class ConceptTokenizer:
    """Wraps one of ComfyUI's tokenizers (SD1Tokenizer, SDXLTokenizer); otherwise that tokenizer.

    Prompt syntax stays ComfyUI's: weights, `embedding:`, sections of 77 tokens. A concept token is
    one token in every text encoder that the vocabulary has tables for.
    """

    def __init__(self, base, vocabulary: Vocabulary):
        self.base = base
        self.vocabulary = vocabulary
        self.knowing = copy.copy(base)  # `base` with the concept tokens; `base` is not changed
        for encoder in vocabulary.tables:
            inner = copy.copy(getattr(base, encoder))  # the SDTokenizer
            inner.tokenizer = ConceptWords(inner.tokenizer, vocabulary.expanded(encoder))
            setattr(self.knowing, encoder, inner)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options):
        """As ComfyUI's; concept tokens become tensors with their table attached.

        Raises ConceptTokenError for a concept token that is not loaded.
        """
        self.vocabulary.check_prompt(text)
        return self.knowing.tokenize_with_weights(text, return_word_ids, **options)

    def clone(self) -> "ConceptTokenizer":
        return self  # immutable

    def __deepcopy__(self, memo) -> "ConceptTokenizer":
        return self

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "knowing":  # not found by copy or pickle: no recursion
            raise AttributeError(name)
        return getattr(self.knowing, name)


class ConceptWords:
    """Wraps the text encoder's own (Hugging Face) tokenizer: cuts the text at concept tokens.

    tables: concept token -> (rows, text width). What stands between them goes through the wrapped
    tokenizer, so that a concept token is a token of its own wherever it stands. Upper and lower
    case are the same, as for all of CLIP's words.
    """

    def __init__(self, base, tables: Mapping[str, torch.Tensor]):
        check_no_special_tokens(base, tables)
        self.base = base
        self.marked = {
            word.casefold(): mark_concept_token(table, word, equal_rows(table))
            for word, table in tables.items()
        }
        longest_first = sorted(tables, key=len, reverse=True)
        self.cut = re.compile(f"({'|'.join(map(re.escape, longest_first))})", re.IGNORECASE)

    def __call__(self, text: str, **options) -> dict[str, list]:
        """{"input_ids": begin token, words and concept tokens (as tensors), end token}"""
        frame = self.base("", **options)["input_ids"]
        begin, end = frame[:1], frame[1:]
        ids = list(begin)
        for piece in self.cut.split(text):
            if piece.casefold() in self.marked:
                ids.append(self.marked[piece.casefold()])
            elif piece.strip():
                words = self.base(piece, **options)["input_ids"]
                ids += words[len(begin) : len(words) - len(end)]
        return {"input_ids": [*ids, *end]}

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "base":
            raise AttributeError(name)
        return getattr(self.base, name)


def check_no_special_tokens(tokenizer, words: Mapping[str, torch.Tensor]) -> None:
    """Raises ConceptTokenError for a concept token such as <|endoftext|>."""
    special = {word.casefold() for word in getattr(tokenizer, "all_special_tokens", ())}
    for token in words:
        if token.casefold() in special:
            raise ConceptTokenError(
                f"{token} already is a word of the text encoder; rename the concept's token"
            )
