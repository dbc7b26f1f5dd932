"""The records that move through the house. All are frozen; tensors in them are never written to."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from .deltas import Delta, LowRank


@dataclass(frozen=True, eq=False)
class Concept:
    """One concept: its tokens, layer-wise embeddings and LoRA factors (Mix-of-Show, ED-LoRA).

    embeddings: token -> (layers, text width); row i belongs to cross-attention layer i; the
      order of the tokens is the order in the file.
    text, unet: diffusers module name -> factors; either may be empty (embedding only).
    architecture: name in `layers.ARCHITECTURES`.
    metadata: training settings and other facts, JSON-able.
    resume: what an unfinished training needs to go on (optimizer moments by name), or None.
    """

    name: str
    embeddings: Mapping[str, torch.Tensor]
    text: Mapping[str, LowRank]
    unet: Mapping[str, LowRank]
    architecture: str
    metadata: Mapping = field(default_factory=dict)
    resume: Mapping[str, torch.Tensor] | None = None

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.embeddings)

    @property
    def trigger_words(self) -> str:
        """The tokens as they are written in a prompt: '<potter1> <potter2>'."""
        return " ".join(self.embeddings)

    @property
    def layers(self) -> int:
        """Number of cross-attention layers the embeddings were made for."""
        return next(iter(self.embeddings.values())).shape[0]

    @property
    def text_width(self) -> int:
        return next(iter(self.embeddings.values())).shape[1]

    @property
    def rank(self) -> int:
        """Largest rank of any factor pair; 0 for an embedding-only concept."""
        return max((f.rank for f in (*self.text.values(), *self.unet.values())), default=0)


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
    """

    concept: Concept
    model: Mapping[Site, Delta]
    text: Mapping[Site, Delta]


@dataclass(frozen=True, eq=False)
class Fused:
    """Several concepts fused into one set of weights: what travels on a MOS_FUSED wire.

    concepts: their embeddings alone, in order. text, unet: diffusers module name -> delta of the
    whole weight, (out, in) or (out, in, 1, 1). base: fingerprint of the model it was made from.
    metadata: settings, strengths, loss per layer; JSON-able.
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
