"""What a fusion will do: its stages, in what portions, and how much work that is."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...deltas import Delta, Whole
from ...families import family_of
from ...families.family import KEYS_VALUES, TEXT_ENCODER
from ...fuse.settings import TEXT_ROWS, FuseSettings
from ...fuse.stage import Layer, StageSums
from ...fuse.sums import TOTAL
from ...records import Concepts, Site
from ..apply import check_fits_clip, check_fits_model
from ..host.checks import check_latents
from ..host.forward import prediction_of
from .coders import Coders
from .layers import by_row, of_stage
from .refine import work_of
from .rows import key_value_rows, picture_rows, samplings, text_rows
from .sources import Source
from .stages import Grams, Stage
from .sums_place import dtype_of_products, place_of_few_sums, plan_sums
from .work import Work


def check_models(model: Any, clip: Any, concepts: Concepts, settings: FuseSettings) -> None:
    """Raises ArchitectureError, before any work, for models that these settings cannot fuse on."""
    family_of(model.model.model_config.unet_config)
    for entry in concepts:
        check_fits_model(entry.concept, model)
        check_fits_clip(entry.concept, clip)
    if settings.refine_steps:
        check_latents(model, "refining a fusion (refine_steps)")
        prediction_of(model.get_model_object("model_sampling"), "refining a fusion (refine_steps)")


class Plan:
    """The stages of one fusion, in the published order.

    on_clip, on_model: the layers to fuse; sources: the concepts; base: the base model.
    """

    def __init__(
        self,
        model: Any,
        on_clip: Sequence[Layer],
        on_model: Sequence[Layer],
        sources: Sequence[Source],
        base: Source,
        settings: FuseSettings,
    ):
        self.model, self.settings = model, settings
        self.family, self.attention = family_of(model.model.model_config.unet_config)
        self.sources, self.base = tuple(sources), base
        self.text = of_stage(on_clip, TEXT_ENCODER)
        self.keys_values = of_stage(on_model, KEYS_VALUES)
        others = [layer for layer in on_model if layer.stage != KEYS_VALUES]
        self.stage_of = {layer.site: layer.stage for layer in on_model}
        self.device, self.portions = plan_sums(model, others, settings.memory_limit)
        self.all_tokens = settings.text_rows == TEXT_ROWS[1]

    @property
    def run(self) -> tuple[Source, ...]:
        """Who is run: the concepts, and the base model if it is an anchor."""
        return (*self.sources, self.base) if self.settings.anchor else self.sources

    @property
    def learners(self) -> list[tuple[Source, float]]:
        """Who takes part in the refinement, with weights: the concepts, and the base model as one
        more. One concept alone is to stay that concept, so the base model needs an anchor then."""
        weight = self.settings.anchor or float(len(self.sources) > 1)
        concepts = [(source, 1.0) for source in self.sources]
        return [*concepts, (self.base, weight)] if weight else concepts

    def sampled(self, source: Source) -> int:
        """Steps of all samplings of a source in one portion."""
        return self.settings.steps * samplings(source.picture, self.family)

    def total(self) -> int:
        """Units of work, see Work."""
        layers = len(self.text) + len(self.keys_values) + sum(map(len, self.portions))
        stages = bool(self.text) + bool(self.keys_values)
        runs = sum(stages + len(self.portions) * self.sampled(source) for source in self.run)
        return layers + runs + self.refining()

    def refining(self) -> int:
        if not self.portions and not self.keys_values:
            return 0
        return work_of(self.settings, [source for source, _ in self.learners], self.family)

    def announcement(self) -> str:
        """How many samplings there will be, and why."""
        each = [samplings(source.picture, self.family) for source in self.run]
        count, steps = sum(each) * len(self.portions), self.settings.steps
        text = f"{count} samplings of {steps} steps"
        if len(self.portions) > 1:
            text += (
                f": the sums do not fit at once, they are taken in {len(self.portions)} portions"
            )
        return text

    def text_stages(self, coders: Coders, work: Work) -> list[Stage]:
        """The text encoders."""

        def rows(source: Source, sums: StageSums) -> Grams:
            with work.timed("text encoder"):
                grams = text_rows(coders.plain, source, sums, self.all_tokens)
            work.advance()
            return grams

        place = place_of_few_sums(self.model)
        return [Stage("text", self.text, rows, lambda s: s.bound.text, TOTAL, place, lambda s: 1)]

    def key_value_stages(self, coders: Coders, work: Work) -> list[Stage]:
        """Keys and values of cross-attention, the fused text encoder in place."""
        layers = by_row(self.keys_values, self.attention, coders.rows)

        def rows(source: Source, sums: StageSums) -> Grams:
            with work.timed("text encoder"):
                coder = coders.for_rows(source)
                grams = key_value_rows(coder, source, sums, coders.rows, self.all_tokens)
            work.advance()
            return grams

        place = place_of_few_sums(self.model)
        asked = self.of_keys_values
        return [Stage("keys and values", layers, rows, asked, TOTAL, place, lambda s: 1)]

    def other_stages(
        self,
        coders: Coders,
        keys_values: Mapping[Site, torch.Tensor],
        work: Work,
        noises: Sequence[torch.Tensor] | None = None,
    ) -> list[Stage]:
        """All other layers, a stage for each portion, fused text encoder, keys and values in
        place."""
        fused = {site: Whole(delta) for site, delta in keys_values.items()}

        def rows(source: Source, sums: StageSums) -> Grams:
            own: dict[Site, Delta] = dict(self.of_others(source))
            first = self.of_keys_values(source) if self.settings.reuse_sums else fused
            number = self.run.index(source)
            noise = noises[number] if noises and number < len(noises) else None
            with work.timed("sampling"):
                return picture_rows(
                    self.model,
                    coders.for_rows(source),
                    source,
                    sums,
                    (first, own),
                    self.family,
                    self.settings,
                    work.advance,
                    noise,
                )

        dtype = dtype_of_products(self.model)
        return [
            Stage("others", layers, rows, self.of_others, dtype, self.device, self.sampled)
            for layers in self.portions
        ]

    def of_keys_values(self, source: Source) -> dict[Site, Delta]:
        """The source's deltas of keys and values."""
        return self.deltas_of(source, True)

    def of_others(self, source: Source) -> dict[Site, Delta]:
        """The source's deltas of all other layers of the model."""
        return self.deltas_of(source, False)

    def deltas_of(self, source: Source, keys_values: bool) -> dict[Site, Delta]:
        return {
            site: delta
            for site, delta in source.bound.model.items()
            if (self.stage_of[site] == KEYS_VALUES) == keys_values
        }
