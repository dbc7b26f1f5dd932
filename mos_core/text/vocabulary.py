"""Which concept tokens a CLIP knows, and the check that a prompt uses no others."""

import re
from collections.abc import Mapping

import torch

from ..errors import ConceptTokenError, nearest_names
from ..records import Concept

# What looks like a concept token: <potter1>, but not <lora:x:1> (other packs' syntax) or <3.
TOKEN_LIKE = re.compile(r"<[^\W\d][\w\-]*>")


class Vocabulary:
    """Immutable table: concept token -> layer-wise embeddings (layers, text width)."""

    def __init__(self, tables: Mapping[str, torch.Tensor], owners: Mapping[str, str]):
        self.tables = dict(tables)
        self.owners = dict(owners)  # token -> name of the concept that brought it

    def extended(self, concept: Concept) -> "Vocabulary":
        """This vocabulary plus one concept's tokens.

        Raises ConceptTokenError if a token is taken (also if only upper and lower case differ).
        """
        taken = {token.casefold(): token for token in self.tables}
        for token in concept.tokens:
            if token.casefold() in taken:
                owner = self.owners.get(taken[token.casefold()], concept.name)
                raise ConceptTokenError(
                    f"the concepts '{owner}' and '{concept.name}' both claim the token {token}; "
                    "load only one of them, or rename the token of one"
                )
            taken[token.casefold()] = token
        return Vocabulary(
            {**self.tables, **concept.embeddings},
            {**self.owners, **dict.fromkeys(concept.tokens, concept.name)},
        )

    @property
    def layers(self) -> int:
        return next(iter(self.tables.values())).shape[0]

    def check_prompt(self, text: str) -> None:
        """Raises ConceptTokenError if the prompt names a concept token that is not loaded."""
        known = {token.casefold() for token in self.tables}
        for match in TOKEN_LIKE.finditer(text):
            if match[0].casefold() not in known:
                raise ConceptTokenError(
                    f"the prompt names {match[0]}, but no loaded concept has that token; nearest: "
                    f"{nearest_names(match[0], self.tables)}. Load the concept, correct the name, "
                    "or write it without angle brackets"
                )
