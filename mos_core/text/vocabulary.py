"""Which concept tokens a CLIP knows, and the check that a prompt uses no others."""

import re
from collections.abc import Mapping, Sequence

import torch

from ..errors import ArchitectureError, ConceptTokenError, nearest_names
from ..families import AttentionLayer
from ..families.rows import spread
from ..families.unet import ARCHITECTURES
from ..records import Concept

# What looks like a concept token: <potter1>, but not <lora:x:1> (other packs' syntax) or <3.
TOKEN_LIKE = re.compile(r"<[^\W\d][\w\-]*>")
Tables = Mapping[str, Mapping[str, torch.Tensor]]  # encoder ("clip_l") -> token -> (rows, width)


class Vocabulary:
    """Immutable table: text encoder -> concept token -> its embeddings (rows, text width).

    owners: token -> name of the concept that brought it. layers: of the family's model, which say
    how tables of different numbers of rows go together.
    """

    def __init__(
        self,
        tables: Tables,
        owners: Mapping[str, str],
        layers: Sequence[AttentionLayer] = (),
    ):
        self.tables = {encoder: dict(own) for encoder, own in tables.items()}
        self.owners = dict(owners)
        self.layers = tuple(layers)

    @property
    def tokens(self) -> tuple[str, ...]:
        """Every concept token once, in the order in which they came."""
        return tuple(dict.fromkeys(token for own in self.tables.values() for token in own))

    @property
    def rows(self) -> int:
        """Rows of a wide conditioning: of the finest table; 1 where no table has more."""
        counts = (table.shape[0] for own in self.tables.values() for table in own.values())
        return max(counts, default=1)

    def extended(self, concept: Concept) -> "Vocabulary":
        """This vocabulary plus one concept's tokens.

        Raises ConceptTokenError if a token is taken (also if only upper and lower case differ),
        ArchitectureError if its tables cannot stand beside those that are here.
        """
        taken = {token.casefold(): token for token in self.tokens}
        for token in concept.tokens:
            if token.casefold() in taken:
                owner = self.owners.get(taken[token.casefold()], concept.name)
                raise ConceptTokenError(
                    f"the concepts '{owner}' and '{concept.name}' both claim the token {token}; "
                    "load only one of them, or rename the token of one"
                )
            taken[token.casefold()] = token
        encoders = dict.fromkeys([*self.tables, *concept.tables])
        both = {e: {**self.tables.get(e, {}), **concept.tables.get(e, {})} for e in encoders}
        owners = {**self.owners, **dict.fromkeys(concept.tokens, concept.name)}
        standard = ARCHITECTURES.get(concept.family or "")
        layers = standard.layers if standard else ()
        vocabulary = Vocabulary(both, owners, self.layers or layers)
        for encoder in encoders:
            vocabulary.expanded(encoder)
        return vocabulary

    def expanded(self, encoder: str) -> dict[str, torch.Tensor]:
        """Every token's table with as many rows as the finest has: token -> (rows, width).

        Raises ArchitectureError for tables that do not go together.
        """
        rows = self.rows
        return {token: self._with_rows(token, t, rows) for token, t in self.tables[encoder].items()}

    def _with_rows(self, token: str, table: torch.Tensor, rows: int) -> torch.Tensor:
        own = table.shape[0]
        if own == rows:
            return table
        index = (0,) * rows if own == 1 else spread(self.layers, own, rows)
        if index is None:
            raise ArchitectureError(
                f"the embeddings of {token} ('{self.owners.get(token, '')}') are made for {own} "
                f"layers, those of another concept beside it for {rows}; they belong to different "
                "models, so load only those of one"
            )
        return table[list(index)]

    def check_prompt(self, text: str) -> None:
        """Raises ConceptTokenError if the prompt names a concept token that is not loaded."""
        known = {token.casefold() for token in self.tokens}
        for match in TOKEN_LIKE.finditer(text):
            if match[0].casefold() not in known:
                raise ConceptTokenError(
                    f"the prompt names {match[0]}, but no loaded concept has that token; nearest: "
                    f"{nearest_names(match[0], self.tokens)}. Load the concept, correct the name, "
                    "or write it without angle brackets"
                )
