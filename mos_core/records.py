"""The records that move through the house. All are frozen; tensors in them are never written to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from .adapters import Adapter
from .deltas import Delta, LowRank

TEXT_PART, UNET_PART = "text_encoder.", "unet."  # how a concept file names its modules


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept, as its file has it: how a prompt calls it, and what it changes.

    name: what regions and messages call it.
    words: how a prompt calls it: its concept tokens, or a LoRA's trigger words; may be empty.
    tables: encoder ("clip_l") -> concept token -> (layers, width) embeddings; row i belongs to
      attention layer i, a single row to all of them. The order of the tokens is the file's. Empty
      for an ordinary LoRA. Every encoder has the same tokens.
    deltas: module name as in the file -> what it changes there; empty for an embedding alone. Only
      `patch/host/bind.py` knows where in a model that is.
    family: name in `families.FAMILIES`, or None where the file does not tell.
    metadata: training settings and other facts, JSON-able.
    resume: what an unfinished training needs to go on (optimizer moments by name), or None.
    unused: names of tensors in the file that mean nothing to this pack -> why.
    """

    name: str
    words: tuple[str, ...]
    tables: Mapping[str, Mapping[str, torch.Tensor]]
    deltas: Mapping[str, Delta | Adapter]
    family: str | None
    metadata: Mapping = field(default_factory=dict)
    resume: Mapping[str, torch.Tensor] | None = None
    unused: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def edlora(
        cls,
        name: str,
        embeddings: Mapping[str, torch.Tensor],
        text: Mapping[str, LowRank],
        unet: Mapping[str, LowRank],
        family: str,
        metadata: Mapping | None = None,
        resume: Mapping[str, torch.Tensor] | None = None,
    ) -> Concept:
        """A concept of one text encoder, CLIP-L, from the three parts of an ED-LoRA.

        embeddings: token -> (layers, width); text, unet: diffusers module name -> factors.
        """
        deltas = {TEXT_PART + module: pair for module, pair in text.items()}
        deltas |= {UNET_PART + module: pair for module, pair in unet.items()}
        tables = {"clip_l": dict(embeddings)} if embeddings else {}
        return cls(name, tuple(embeddings), tables, deltas, family, metadata or {}, resume)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words that are concept tokens, with embeddings of their own."""
        return tuple(dict.fromkeys(t for tables in self.tables.values() for t in tables))

    @property
    def trigger_words(self) -> str:
        """The words as they are written in a prompt: '<potter1> <potter2>', 'lowpoly, knight'."""
        return (" " if self.tables else ", ").join(self.words)

    @property
    def rank(self) -> int:
        """Largest rank of any delta; 0 for an embedding-only concept."""
        return max((delta.rank for delta in self.deltas.values()), default=0)

    def without_deltas(self) -> Concept:
        """Its words and embeddings alone."""
        return replace(self, deltas={}, resume=None)

    # What an ED-LoRA of one text encoder has.

    @property
    def embeddings(self) -> Mapping[str, torch.Tensor]:
        """Token -> (layers, width), of CLIP-L."""
        return self.tables.get("clip_l", {})

    @cached_property
    def text(self) -> Mapping[str, LowRank]:
        """Diffusers module name in the text encoder -> factors."""
        return self._factors(TEXT_PART)

    @cached_property
    def unet(self) -> Mapping[str, LowRank]:
        """Diffusers module name in the UNet -> factors."""
        return self._factors(UNET_PART)

    def _factors(self, part: str) -> dict[str, LowRank]:
        return {
            name.removeprefix(part): delta
            for name, delta in self.deltas.items()
            if name.startswith(part) and isinstance(delta, LowRank)
        }


@dataclass(frozen=True, eq=False)
class WeightedConcept:
    """A concept and the user's two strengths, `W = W0 + strength * up @ down`."""

    concept: Concept
    strength_model: float = 1.0
    strength_clip: float = 1.0


Concepts = tuple[WeightedConcept, ...]  # what travels on a MOS_CONCEPTS wire


@dataclass(frozen=True)
class Site:
    """A place in a model where a delta acts; the only name of a module once a concept is bound.

    key: of the weight in ComfyUI's state dict, "diffusion_model....weight" for a MODEL,
      "clip_l.transformer....weight" for a CLIP.
    part: (first output row, number of rows) of a fused weight (q of qkv), or None for all of it.
    """

    key: str
    part: tuple[int, int] | None = None

    @property
    def path(self) -> str:
        """Of the module, below the object whose state dict has the key."""
        return self.key.removesuffix(".weight")


@dataclass(frozen=True, eq=False)
class Bound:
    """A concept on one MODEL and CLIP: every delta at its site, strengths multiplied in.

    model, text: site -> delta, shapes checked against the weights; nothing for strength 0.
    left: names of the file that change nothing here -> why. Nothing else of it was left out.
    maps: deltas of convolutions larger than one cell, which have no rows; see `Convolution.on_map`.
    """

    concept: Concept
    model: Mapping[Site, Delta]
    text: Mapping[Site, Delta]
    left: Mapping[str, str] = field(default_factory=dict)
    maps: Mapping[Site, Delta] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Fused:
    """Several concepts fused into one set of weights: what travels on a MOS_FUSED wire.

    concepts: their embeddings alone, in order. text, unet: diffusers module name -> delta of the
    whole weight, (out, in) or (out, in, rows, columns). base: fingerprint of the model it was made
    from. metadata: settings, strengths, loss per layer; JSON-able.
    """

    concepts: tuple[Concept, ...]
    text: Mapping[str, torch.Tensor]
    unet: Mapping[str, torch.Tensor]
    architecture: str
    base: str
    metadata: Mapping = field(default_factory=dict)

    @property
    def trigger_words(self) -> str:
        """One line per concept, as written in a prompt."""
        return "\n".join(concept.trigger_words for concept in self.concepts)
