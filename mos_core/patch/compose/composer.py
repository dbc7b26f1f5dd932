"""Composer Attention: LoRA-Composer on a clone of MODEL, every concept in its own region alone."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from ...compose.assign import assign_concepts
from ...compose.drawn import Drawn
from ...compose.log import ComposerLog
from ...compose.notes import composer_notes
from ...compose.settings import ComposerSettings
from ...deltas import Delta, LowRank, Whole
from ...errors import RegionError, nearest_names
from ...families import Family, family_of
from ...records import Bound, Concept, Concepts, Site, WeightedConcept
from ...regions.region import Regions
from ...text.positions import positions_of
from ...text.tokenizer import ConceptTokenizer
from ..apply import apply_concepts, check_fits_model
from ..find.mentions import region_places
from ..host.bind import bind
from ..host.forward import clone_for_gradients
from ..regional.attention import add_regional_attention
from ..regional.texts import encode_region_texts, word_positions
from ..text.layerwise_clip import stock_tokenizer, vocabulary_of
from ..text.layerwise_model import add_layerwise_text
from .adapt import add_adaptation
from .checks import check_base
from .guidance import Guidance, add_guidance
from .left_over import left_notes
from .transformer import reference_notes, transformer_notes


def apply_composer(
    model: Any, clip: Any, concepts: Concepts, regions: Regions, settings: ComposerSettings
) -> tuple:
    """(MODEL, CLIP, ComposerLog, notes): each concept in its regions, guided as in the settings.

    model: ModelPatcher, clip: comfy.sd.CLIP; neither is changed. The CLIP encodes the global
    prompts: it is the given one unless there is a background concept. Raises RegionError,
    ConceptTokenError, ArchitectureError.
    """
    check_base(clip, concepts)
    background = find_background(concepts, settings.background)
    others = tuple(entry for entry in concepts if entry is not background)
    known = concepts if background is not None and names_any(regions, background) else others
    assigned, notes = assign_concepts(regions, known)
    notes = (*notes, *composer_notes(regions, known, assigned))
    if not regions.regions:
        notes = ("There are no regions: the picture is drawn by the global prompt alone.",)
    if settings.border and not settings.isolation:
        notes = (*notes, "isolation_border opens nothing: isolation is off.")
    for entry in known:
        check_fits_model(entry.concept, model)
    drawn = draw_regions(model, clip, regions, known, assigned)
    if background is not None:
        drawn = without(drawn, bind(model, None, background))
        model, clip = apply_concepts(model, clip, (background,))
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    choices = (
        settings.injection,
        settings.isolated,
        settings.picture_layers,
        settings.placement,
    )
    family, _ = family_of(model.model.model_config.unet_config)
    notes = (*notes, *left_notes(family, drawn), *reference_notes(family, drawn))
    joint = family.sequence is not None
    if joint and (settings.adapt > 0 or settings.guidance.acts):
        drawn = with_places(clip, drawn, family)
    if settings.guidance.updates:
        model = clone_for_gradients(model)
    patched = model.clone()
    if not joint:
        add_layerwise_text(patched)
    patched = add_regional_attention(patched, drawn, *choices, log.note)
    add_guidance(patched, Guidance(drawn, settings.guidance, log, settings.isolated))
    if settings.adapt > 0:
        add_adaptation(patched, settings.adapt, log.note)
    if joint:
        notes = (*notes, *transformer_notes(family, drawn, settings))
    return patched, clip, log, (*regions.notes, *notes)


def draw_regions(
    model: Any, clip: Any, regions: Regions, concepts: Concepts, assigned: tuple[int | None, ...]
) -> tuple[Drawn, ...]:
    """Each region with its text and its concept, bound to the model. assigned: per region, the
    number of its concept, or None."""
    texts = encode_region_texts(clip, regions, concepts, assigned)
    bound = {n: bind(model, None, concepts[n]) for n in set(assigned) if n is not None}
    drawn = []
    for region, text, number in zip(regions.regions, texts, assigned, strict=True):
        concept = None if number is None else concepts[number].concept
        tokenizer = tokenizer_for(clip, concept)
        words = word_positions(tokenizer, region.prompt)
        if concept is None or number is None:
            drawn.append(Drawn(region, text, words=words))
        else:
            places = positions_of(tokenizer, region.prompt, concept)
            drawn.append(Drawn(region, text, bound[number], places, words))
    return tuple(drawn)


def with_places(clip: Any, drawn: tuple[Drawn, ...], family: Family) -> tuple[Drawn, ...]:
    """The regions of a transformer with the places of their concepts' words."""
    return tuple(
        one
        if one.concept is None
        else replace(
            one, positions=region_places(clip, one.region.prompt, one.concept.concept, family)
        )
        for one in drawn
    )


def find_background(concepts: Concepts, name: str) -> WeightedConcept | None:
    """The concept of that name, or that has it as a token. Raises RegionError if there is none."""
    wanted = name.strip().casefold()
    if not wanted:
        return None
    for entry in concepts:
        own = (entry.concept.name, *entry.concept.tokens, *entry.concept.words)
        if wanted in (known.casefold() for known in own):
            return entry
    names = [entry.concept.name for entry in concepts]
    raise RegionError(
        f"The background concept '{name}' is not loaded; nearest: {nearest_names(name, names)}. "
        "Load it with Load ED-LoRA, correct the name, or leave it empty."
    )


def names_any(regions: Regions, entry: WeightedConcept) -> bool:
    """Whether a region draws the concept, by its name or a token."""
    tokens = [token.casefold() for token in entry.concept.tokens]
    for region in regions.regions:
        asked = (region.concept or "").casefold()
        if asked == entry.concept.name.casefold() or asked in tokens:
            return True
        if any(token in region.prompt.casefold() for token in tokens):
            return True
    return False


def token_positions(clip: Any, prompt: str, concept: Concept) -> tuple[int, ...]:
    """Where the concept's words stand in the encoded prompt, sections of 77 counted through."""
    return positions_of(tokenizer_for(clip, concept), prompt, concept)


def tokenizer_for(clip: Any, concept: Concept | None) -> Any:
    """The CLIP's tokenizer, with the concept's tokens if it has any."""
    if concept is None or not concept.tables:
        return clip.tokenizer
    return ConceptTokenizer(stock_tokenizer(clip), vocabulary_of(clip).extended(concept))


def without(drawn: tuple[Drawn, ...], background: Bound) -> tuple[Drawn, ...]:
    """The regions with the background's deltas taken away, which are in the weights already: what
    is left in a region is the base model and its concept (as published)."""
    own = {id(one.concept): one.concept for one in drawn if one.concept is not None}
    less = {key: replace(b, model=minus(b.model, background.model)) for key, b in own.items()}
    return tuple(
        one if one.concept is None else replace(one, concept=less[id(one.concept)]) for one in drawn
    )


def minus(own: Mapping[Site, Delta], other: Mapping[Site, Delta]) -> dict[Site, Delta]:
    """`own - other` at every site that one of them has."""
    sites = dict.fromkeys((*own, *other))
    return {site: difference(own.get(site), other.get(site)) for site in sites}


def difference(own: Delta | None, other: Delta | None) -> Delta:
    if other is None:
        assert own is not None
        return own
    taken = other.scaled(-1.0)
    if own is None:
        return taken
    if isinstance(own, LowRank) and isinstance(taken, LowRank):
        return LowRank(torch.cat([own.down, taken.down]), torch.cat([own.up, taken.up], 1))
    return Whole(own.matrix() + taken.matrix())
