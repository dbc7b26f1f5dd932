"""A tokenizer in which every concept token is one token that carries its layer-wise embeddings."""

import copy
import re

import torch

from ..errors import ConceptTokenError
from .vocabulary import Vocabulary


def mark_concept_token(table: torch.Tensor) -> torch.Tensor:
    """The token that stands for a concept token in a token list.

    table: (layers, text width). Returns a (text width,) tensor, which ComfyUI inserts as an
    embedding wherever the layers are not told apart (their mean), with the table attached.
    """
    token = table.float().mean(0)
    token.mos_table = table  # type: ignore[attr-defined]
    return token


def concept_table(token) -> torch.Tensor | None:
    """The (layers, text width) table of a token, or None for any other token."""
    return getattr(token, "mos_table", None)


class ConceptTokenizer:
    """Wraps one of ComfyUI's tokenizers (SD1Tokenizer) and is otherwise that tokenizer.

    Prompt syntax stays ComfyUI's: weights, `embedding:`, chunks of 77 tokens.
    """

    def __init__(self, base, vocabulary: Vocabulary, encoder: str = "clip_l"):
        self.base = base
        self.vocabulary = vocabulary
        self.encoder = encoder  # attribute of `base` that holds the SDTokenizer
        self.inner, self.ids = add_tokens(getattr(base, encoder), vocabulary)
        tokens = sorted(vocabulary.tables, key=len, reverse=True)
        self.any_case = re.compile("|".join(map(re.escape, tokens)), re.IGNORECASE)

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **options):
        """As ComfyUI's; concept tokens become tensors with their table attached.

        Raises ConceptTokenError for a concept token that is not loaded.
        """
        self.vocabulary.check_prompt(text)
        text = self.any_case.sub(lambda match: match[0].lower(), text)
        chunks = self.inner.tokenize_with_weights(text, return_word_ids, **options)
        marked = {i: mark_concept_token(table) for i, table in self.ids.items()}
        key = self.base.clip_name
        return {key: [[(swap(t[0], marked), *t[1:]) for t in chunk] for chunk in chunks]}

    def untokenize(self, pairs):
        return self.inner.untokenize(pairs)

    def clone(self) -> "ConceptTokenizer":
        return self  # immutable

    def __deepcopy__(self, memo) -> "ConceptTokenizer":
        return self

    def __getattr__(self, name: str):
        if name.startswith("_") or name == "base":  # not found by copy or pickle: no recursion
            raise AttributeError(name)
        return getattr(self.base, name)


def swap(token, marked: dict[int, torch.Tensor]):
    return marked.get(token, token) if isinstance(token, int) else token


def add_tokens(tokenizer, vocabulary: Vocabulary):
    """A copy of ComfyUI's SDTokenizer that knows the concept tokens; the original is not changed.

    Returns the copy and {token id: (layers, text width)}. Raises ConceptTokenError for a token
    that already is a word of the tokenizer.
    """
    inner = copy.copy(tokenizer)
    inner.tokenizer = copy.deepcopy(tokenizer.tokenizer)
    before = len(inner.tokenizer)
    lowered = {token.lower(): table for token, table in vocabulary.tables.items()}
    inner.tokenizer.add_tokens(list(lowered))
    ids = {inner.tokenizer.convert_tokens_to_ids(token): t for token, t in lowered.items()}
    clash = [token for token in lowered if inner.tokenizer.convert_tokens_to_ids(token) < before]
    if clash:
        raise ConceptTokenError(
            f"{clash[0]} already is a word of the text encoder; rename the concept's token"
        )
    return inner, ids
