"""The text encoders of a fusion: the fused one, and each concept's own."""

from collections.abc import Mapping
from typing import Any

import torch

from ...deltas import Delta, Whole
from ...records import Concepts, Site
from ..host.weights import merge_sites
from ..text.layerwise_clip import add_vocabulary, vocabulary_of
from .sources import Source


class Coders:
    """Clones of a CLIP that know every concept's tokens.

    own_rows: concepts are run with their own text encoders instead of the fused one.
    """

    def __init__(self, clip: Any, concepts: Concepts, own_rows: bool):
        self.clip = clip
        self.own_rows = own_rows
        self.vocabulary = vocabulary_of(clip)
        for entry in concepts:
            self.vocabulary = self.vocabulary.extended(entry.concept)
        self.plain = self.with_deltas({})
        self.fused = self.plain

    @property
    def rows(self) -> int:
        """Texts side by side in one encoding: 1 for ordinary ones."""
        return self.vocabulary.rows

    def fuse(self, deltas: Mapping[Site, torch.Tensor]) -> None:
        """The text encoder is solved: from here on it is this one."""
        self.fused = self.with_deltas({site: Whole(delta) for site, delta in deltas.items()})

    def with_deltas(
        self, deltas: Mapping[Site, Delta], owner: str = "the fused text encoder"
    ) -> Any:
        coder = self.clip.clone()
        if self.vocabulary.tokens:
            add_vocabulary(coder, self.vocabulary)
        merge_sites(coder.patcher, deltas, owner)
        return coder

    def own(self, source: Source) -> Any:
        """The CLIP of this concept alone, knowing every concept's tokens."""
        return self.with_deltas(source.bound.text, source.name)

    def for_rows(self, source: Source) -> Any:
        """The fused CLIP, as published; the concept's own where its sums are to be kept."""
        return self.own(source) if self.own_rows else self.fused
