"""Random concepts for a model of any family, regions for them, and ComfyUI's own way for both."""

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.hooks
import comfy.weight_adapter
import torch

from mix_of_show.mos_core.deltas import LowRank
from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.families.family import SAMPLE
from mix_of_show.mos_core.families.rows import row_counts
from mix_of_show.mos_core.records import Concept, WeightedConcept
from mix_of_show.mos_core.regions.region import Box, Region, Regions

PREFIX = "diffusion_model."


def random_concepts(model, clip, count: int, rank: int, part: str = "attention"):
    """A chain of concepts "<c0>", "<c1>", ...: deltas on the model's layers of that part, and
    embeddings where the family's text encoders learn tokens."""
    return tuple(_concept(model, clip, number, rank, part) for number in range(count))


def _concept(model, clip, number: int, rank: int, part: str) -> WeightedConcept:
    generator = torch.Generator().manual_seed(number)
    family, layers = family_of(model.model.model_config.unet_config)

    def factors(out: int, into: int) -> LowRank:
        down = torch.randn(rank, into, generator=generator) * into**-0.5
        return LowRank(down, torch.randn(out, rank, generator=generator) * 0.02)

    deltas = {}
    for path, module in model.model.diffusion_model.named_modules():
        role = family.role(PREFIX + path) if isinstance(module, torch.nn.Linear) else None
        if role is not None and role.part == part and role.stream != SAMPLE:
            deltas[PREFIX + path] = factors(module.out_features, module.in_features)
    token = f"<c{number}>"
    tables = {}
    for encoder in family.texts if family.layerwise else ():
        table = getattr(clip.cond_stage_model, encoder.key).transformer.get_input_embeddings()
        shape = row_counts(layers)[0], table.embedding_dim
        tables[encoder.key] = {token: torch.randn(shape, generator=generator) * 0.02}
    return WeightedConcept(Concept(f"concept {number}", (token,), tables, deltas, family.name))


def boxes(count: int) -> list[Box]:
    """A row of boxes, 0.7 of the height, with background above and between."""
    return [Box((i + 0.05) / count, 0.3, (i + 0.95) / count, 1) for i in range(count)]


def regions_for(concepts: Sequence[WeightedConcept], width: int, height: int) -> Regions:
    """A box for each concept, with its words as prompt."""
    drawn = zip(concepts, boxes(len(concepts)), strict=True)
    return Regions(
        width, height, tuple(Region(f"a {c.concept.trigger_words}", box=box) for c, box in drawn)
    )


def lora_hook(deltas: Mapping[Any, LowRank]):
    """ComfyUI's hook group for deltas by the model's own names of weights."""
    patches = {
        getattr(name, "key", name): comfy.weight_adapter.LoRAAdapter(
            set(), (delta.up, delta.down, float(delta.rank), None, None, None)
        )
        for name, delta in deltas.items()
    }
    hooks = comfy.hooks.create_hook_lora(patches, 1.0, 0.0)
    for hook in hooks.hooks:
        hook.need_weight_init = False
    return hooks


def hooked(clip, concepts: Sequence[WeightedConcept], width: int, height: int) -> tuple:
    """ComfyUI's way: (positive, negative) with a mask and a LoRA hook for each region, and the
    background's own. The model runs once for each."""

    def encode(text: str):
        return clip.encode_from_tokens_scheduled(clip.tokenize(text))

    halves = [encode("a street"), encode("")]
    for entry, box in zip(concepts, boxes(len(concepts)), strict=True):
        hooks = lora_hook({f"{name}.weight": d for name, d in entry.concept.deltas.items()})
        mask = box.weights(height // 8, width // 8)[None]
        halves = comfy.hooks.set_conds_props_and_combine(
            halves, [encode("a person"), encode("")], mask=mask, hooks=hooks
        )
    return tuple(halves)
