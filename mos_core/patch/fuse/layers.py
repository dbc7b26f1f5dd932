"""Which layers a fusion solves: every site that a concept changes, by stage and input."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...deltas import Delta
from ...families import AttentionLayer, Family, Role, family_of
from ...families.family import OTHERS, TEXT_ENCODER
from ...families.rows import row_of_layers
from ...fuse.stage import Layer
from ...records import Site
from ..host.based import NOT_IN_REGIONS
from .sources import Source, union


def fused_layers(model: Any, sources: Sequence[Source]) -> tuple[list[Layer], list[Layer]]:
    """The layers of the text encoders, and those of the model, in the order of the files."""
    family, _ = family_of(model.model.model_config.unet_config)
    text = union([source.bound.text for source in sources])
    model = union([source.bound.model for source in sources])
    return (
        [layer_of(site, delta, family, TEXT_ENCODER) for site, delta in text.items()],
        [layer_of(site, delta, family, OTHERS) for site, delta in model.items()],
    )


def layer_of(site: Site, delta: Delta, family: Family, stage: str) -> Layer:
    """stage: where the family says nothing of the site."""
    role = family.role(site.path) or Role("", site.path, stage, "")
    out, width = delta.shape
    return Layer(site, role.group, (out, width), role.stage)


def by_row(layers: Sequence[Layer], attention: Sequence[AttentionLayer], rows: int) -> list[Layer]:
    """Layers of keys and values, those that read the same row of the text in one group.

    rows: of the text; 1 for an ordinary one, which all layers read.
    """
    reads = row_of_layers(attention, rows)
    assert reads is not None
    row_of = {f"diffusion_model.{layer.path}.attn2.kv": reads[layer.index] for layer in attention}
    return [replace(layer, group=row_group(row_of[layer.group])) for layer in layers]


def row_group(row: int) -> str:
    """The input group of the layers that read this row of the text."""
    return f"text.{row}"


def of_stage(layers: Sequence[Layer], stage: str) -> list[Layer]:
    return [layer for layer in layers if layer.stage == stage]


def paths_of(layers: Sequence[Layer]) -> Mapping[str, str]:
    """Input group -> the first module with that input."""
    return {layer.group: layer.site.path for layer in reversed(layers)}


def unfused_notes(sources: Sequence[Source]) -> tuple[str, ...]:
    """What of the concepts' files is not in the fusion, for its report."""
    notes = []
    for source in sources:
        if source.bound.maps:
            notes.append(
                f"not fused of '{source.name}': {len(source.bound.maps)} convolutions larger than "
                "one cell, left out by the setting; with Composer Attention they act"
            )
        for why in dict.fromkeys(source.bound.left.values()):
            names = [name for name, reason in source.bound.left.items() if reason == why]
            reason = why.removeprefix(NOT_IN_REGIONS)
            notes.append(f"not fused of '{source.name}': {len(names)}, first {names[0]} ({reason})")
    return tuple(notes)
