"""Apply Concepts: the plain weighted sum of concepts on a clone of MODEL and CLIP."""

from typing import Any

from ..errors import ArchitectureError
from ..families import FAMILIES, family_named, family_of
from ..families.rows import row_counts
from ..records import Concept, Concepts
from .host.beside import put_beside_model
from .host.bind import bind, match_names
from .host.weights import merge_named
from .text.beside_clip import put_beside_clip
from .text.layerwise_clip import add_vocabulary, embedding_widths, vocabulary_of
from .text.layerwise_model import add_layerwise_text

MERGE, BESIDE = "merge", "beside"
MODES = (MERGE, BESIDE)


def apply_concepts(model: Any, clip: Any, concepts: Concepts, mode: str = MERGE) -> tuple[Any, Any]:
    """(MODEL, CLIP) that know the concepts' tokens: `W = W0 + sum_i strength_i * delta_i`.

    model: ModelPatcher, clip: comfy.sd.CLIP; neither is changed. The embeddings are always used
    unscaled (Mix-of-Show; strength 0 is the embedding alone). A concept without embeddings is an
    ordinary LoRA, and acts as ComfyUI's Load LoRA does, bit for bit. mode "beside": the deltas stay
    beside the weights. Raises ArchitectureError or ConceptTokenError.
    """
    if not concepts:
        return model, clip
    return apply_to_model(model, concepts, mode), apply_to_clip(clip, concepts, mode)


def apply_to_model(model: Any, concepts: Concepts, mode: str = MERGE) -> Any:
    """A clone of the ModelPatcher with the model's deltas, reading layer-wise text if a concept has
    embeddings."""
    patched = model.clone()
    deltas = []
    for entry in concepts:
        check_fits_model(entry.concept, model)
        named = match_names(model, None, entry.concept).model
        if mode == BESIDE:
            bound = bind(model, None, entry)
            deltas.append({**bound.model, **bound.maps})
            named = {name: target for name, target in named.items() if name in bound.left}
        merge_named(patched, entry.concept, named, entry.strength_model)
    put_beside_model(patched, tuple(deltas))
    if any(entry.concept.tables for entry in concepts):
        add_layerwise_text(patched)
    return patched


def apply_to_clip(clip: Any, concepts: Concepts, mode: str = MERGE) -> Any:
    """A clone of the CLIP with the text encoder's deltas, knowing the concept tokens."""
    vocabulary = vocabulary_of(clip)
    patched = clip.clone()
    deltas = []
    for entry in concepts:
        check_fits_clip(entry.concept, clip)
        vocabulary = vocabulary.extended(entry.concept)
        named = match_names(None, clip, entry.concept).text
        if mode == BESIDE:
            bound = bind(None, clip, entry)
            deltas.append(bound.text)
            named = {name: target for name, target in named.items() if name in bound.left}
        merge_named(patched.patcher, entry.concept, named, entry.strength_clip)
    put_beside_clip(patched, tuple(deltas))
    if vocabulary.tokens:
        add_vocabulary(patched, vocabulary)
    return patched


def check_fits_model(concept: Concept, model: Any) -> None:
    """Raises ArchitectureError unless the concept's embeddings, if it has any, fit the model."""
    if not concept.tables:
        return
    config = model.model.model_config.unet_config
    family, layers = family_of(config)
    rows = {len(table) for own in concept.tables.values() for table in own.values()}
    if concept.family not in (None, family.name) or not rows <= {1, *row_counts(layers)}:
        raise ArchitectureError(
            f"the concept '{concept.name}' was made for {_made_for(concept)}, this MODEL is "
            f"{family.name} ({len(layers)} cross-attention layers); use a base model of the same "
            "kind"
        )
    width = sum(next(iter(own.values())).shape[1] for own in concept.tables.values())
    if width != config["context_dim"]:
        raise ArchitectureError(
            f"the embeddings of '{concept.name}' are {width} wide, the text of this MODEL is "
            f"{config['context_dim']} wide; it was made for another base model"
        )


def check_fits_clip(concept: Concept, clip: Any) -> None:
    """Raises ArchitectureError unless concept tokens can be given to this CLIP."""
    if not concept.tables:
        return
    here, family = embedding_widths(clip), family_named(concept.family or "")
    asked = {text.key for text in family.texts} if family else set(concept.tables)
    if asked != set(here) or set(concept.tables) != set(here):
        kinds = {tuple(sorted(text.key for text in f.texts)): f.name for f in reversed(FAMILIES)}
        kind = kinds.get(tuple(sorted(here)), "of another kind")
        raise ArchitectureError(
            f"the concept '{concept.name}' was made for {_made_for(concept)}, this CLIP is {kind} "
            f"(text encoders: {', '.join(here) or 'none that learns tokens'}; the concept's: "
            f"{', '.join(concept.tables)}); use the CLIP of a checkpoint of the concept's kind"
        )
    for encoder, tables in concept.tables.items():
        width = next(iter(tables.values())).shape[1]
        if width != here[encoder]:
            raise ArchitectureError(
                f"the embeddings of '{concept.name}' are {width} wide, the text of this CLIP is "
                f"{here[encoder]} wide ({encoder}); it was made for another base model"
            )


def _made_for(concept: Concept) -> str:
    family = family_named(concept.family or "")
    rows = sorted({len(table) for own in concept.tables.values() for table in own.values()})
    return f"{family.name if family else 'another model'} ({rows[-1]} embeddings per token)"
