"""Whose rows a fusion learns from: the concepts, bound to the models, and the base model itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...deltas import Delta, WithBias
from ...fuse.settings import FuseSettings
from ...records import Bound, Concept, Concepts, Site
from ..host.bind import bind

BASE = "the base model"
NO_BIASES = "a bias, which a solved weight cannot stand for; without fusing it acts"


@dataclass(frozen=True, eq=False)
class Source:
    """A concept, or the base model, with the prompts that show it.

    bound: its deltas, strengths multiplied in; those that are fused are in `text` and `model`, what
    is left in `maps` is not. text, picture, refine: prompts of the text stages,
    of the sampling, of the refinement. seed: of its noise. strengths: model and clip.
    """

    bound: Bound
    text: tuple[str, ...]
    picture: tuple[str, ...]
    refine: tuple[str, ...]
    seed: int
    strengths: tuple[float, float] = (1.0, 1.0)

    @property
    def name(self) -> str:
        return self.bound.concept.name

    @property
    def tables(self) -> Mapping[str, Mapping[str, torch.Tensor]]:
        return self.bound.concept.tables


def sources_of(model: Any, clip: Any, concepts: Concepts, settings: FuseSettings) -> list[Source]:
    """One for each concept. Raises ArchitectureError for one that does not fit the models."""
    made = []
    for number, entry in enumerate(concepts):

        def named(
            prompts: Sequence[str], words: str = entry.concept.trigger_words
        ) -> tuple[str, ...]:
            return tuple(prompt.replace("{}", words) for prompt in prompts)

        made.append(
            Source(
                fusible(bind(model, clip, entry), settings.convolutions),
                named(settings.text_prompts),
                named(settings.picture_prompts),
                named(settings.refine_prompts),
                seed_of(settings, number),
                (entry.strength_model, entry.strength_clip),
            )
        )
    return made


def fusible(bound: Bound, convolutions: bool) -> Bound:
    """What a solved weight can stand for: no biases; with the deltas of convolutions among the
    model's, if they are wanted. What is taken away is in its `left` or stays in its `maps`."""
    left, sides = dict(bound.left), []
    for deltas in (bound.text, {**bound.model, **(bound.maps if convolutions else {})}):
        weights = {
            site: delta.inner if isinstance(delta, WithBias) else delta
            for site, delta in deltas.items()
        }
        left |= {
            f"{site.path}.bias": NO_BIASES
            for site, delta in deltas.items()
            if isinstance(delta, WithBias)
        }
        sides.append({site: delta for site, delta in weights.items() if delta is not None})
    text, model = sides
    maps = {} if convolutions else bound.maps
    return replace(bound, text=text, model=model, left=left, maps=maps)


def base_source(settings: FuseSettings, number: int) -> Source:
    """The base model on general prompts: what is not to be unlearnt."""
    prompts, seed = settings.anchor_prompts, seed_of(settings, number)
    nothing = Bound(Concept(BASE, (), {}, {}, None), {}, {})
    return Source(nothing, prompts, prompts, settings.prior_prompts, seed)


def seed_of(settings: FuseSettings, number: int) -> int:
    """Another one for each source, unless a source's sums are to be kept for other fusions."""
    return settings.seed if settings.reuse_sums else settings.seed + number


def union(tables: Sequence[Mapping[Site, Delta]]) -> dict[Site, Delta]:
    """Every site that any of them changes, with the first one's delta, in order."""
    found: dict[Site, Delta] = {}
    for table in tables:
        for site, delta in table.items():
            found.setdefault(site, delta)
    return found
