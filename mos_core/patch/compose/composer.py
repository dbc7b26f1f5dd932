"""Composer Attention: LoRA-Composer on a clone of MODEL, every concept in its own region alone."""

from dataclasses import dataclass, field, replace

import torch

from ...compose.assign import assign_concepts
from ...compose.injection import Injection
from ...compose.log import ComposerLog
from ...compose.notes import composer_notes
from ...compose.settings import GuidanceSettings
from ...errors import RegionError, nearest_names
from ...records import Concept, Concepts, LowRank, WeightedConcept
from ...regions.region import Regions
from ...text.tokenizer import ConceptTokenizer, concept_table
from ..apply import apply_concepts, check_fits_model
from ..host.forward import clone_for_gradients
from ..regional.attention import add_regional_attention
from ..regional.texts import encode_region_texts
from ..text.layerwise_clip import vocabulary_of
from ..text.layerwise_model import add_layerwise_text
from .checks import check_base
from .guidance import Guidance, add_guidance


@dataclass(frozen=True)
class ComposerSettings:
    """injection: which layers get a concept's delta (compose/injection.py). isolation: regions do
    not see each other in self-attention. background: name of a concept for what lies outside all
    regions, or empty."""

    injection: str = "full"
    isolation: bool = True
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    background: str = ""


def apply_composer(
    model, clip, concepts: Concepts, regions: Regions, settings: ComposerSettings
) -> tuple:
    """(MODEL, CLIP, ComposerLog, notes): each concept in its regions, guided as in the settings.

    model: ModelPatcher, clip: comfy.sd.CLIP; neither is changed. The CLIP encodes the global
    prompts: it is the given one unless there is a background concept. Raises RegionError,
    ConceptTokenError, ArchitectureError.
    """
    check_base(clip, concepts)
    background = find_background(concepts, settings.background)
    drawn = tuple(entry for entry in concepts if entry is not background)
    known = concepts if background is not None and names_any(regions, background) else drawn
    assigned, notes = assign_concepts(regions, known)
    notes = (*notes, *composer_notes(regions, known, assigned))
    if not regions.regions:
        notes = ("There are no regions: the picture is drawn by the global prompt alone.",)
    for entry in known:
        check_fits_model(entry.concept, model)
    texts = encode_region_texts(clip, regions, known, assigned)
    positions = tuple(
        () if number is None else token_positions(clip, region.prompt, known[number].concept)
        for region, number in zip(regions.regions, assigned, strict=True)
    )
    if background is not None:
        model, clip = apply_concepts(model, clip, (background,))
    if settings.guidance.updates:
        model = clone_for_gradients(model)
    patched = add_regional_attention(
        model,
        regions,
        texts,
        Injection(
            settings.injection,
            tuple(without(e, background) for e in known),
            assigned,
            tuple(region.strength for region in regions.regions),
        ),
        "on" if settings.isolation else "off",
    )
    add_layerwise_text(patched)
    log = ComposerLog(regions, tuple(region.name for region in regions.regions))
    add_guidance(patched, Guidance(regions, positions, settings.guidance, log))
    return patched, clip, log, (*regions.notes, *notes)


def find_background(concepts: Concepts, name: str) -> WeightedConcept | None:
    """The concept of that name, or that has it as a token. Raises RegionError if there is none."""
    wanted = name.strip().casefold()
    if not wanted:
        return None
    for entry in concepts:
        own = (entry.concept.name, *entry.concept.tokens)
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


def token_positions(clip, prompt: str, concept: Concept) -> tuple[int, ...]:
    """Where the concept's tokens stand in the encoded prompt, sections of 77 counted through."""
    known = isinstance(clip.tokenizer, ConceptTokenizer)
    base = clip.tokenizer.base if known else clip.tokenizer
    tokenizer = ConceptTokenizer(base, vocabulary_of(clip).extended(concept))
    tables = {id(table) for table in concept.embeddings.values()}
    sections = next(iter(tokenizer.tokenize_with_weights(prompt).values()))
    tokens = [pair[0] for section in sections for pair in section]
    return tuple(i for i, token in enumerate(tokens) if id(concept_table(token)) in tables)


def without(entry: WeightedConcept, background: WeightedConcept | None) -> WeightedConcept:
    """The concept with the background's deltas taken away, which are in the weights already: what
    is left in a region is the base model and this concept (as published)."""
    if background is None:
        return entry
    own, other = entry.concept.unet, background.concept.unet
    factors = {}
    for module in {**own, **other}:
        parts = [
            (pair, strength)
            for pair, strength in (
                (own.get(module), entry.strength_model),
                (other.get(module), -background.strength_model),
            )
            if pair is not None
        ]
        factors[module] = LowRank(
            torch.cat([pair.down for pair, _ in parts]),
            torch.cat([strength * pair.up for pair, strength in parts], 1),
        )
    deltas = {f"unet.{module}": pair for module, pair in factors.items()}
    return WeightedConcept(replace(entry.concept, deltas=deltas), 1.0, entry.strength_clip)
