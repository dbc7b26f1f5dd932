"""Apply Concepts: the plain weighted sum of concepts on a clone of MODEL and CLIP."""

from ..errors import ArchitectureError
from ..families.unet import ARCHITECTURES, architecture_of
from ..records import Concept, Concepts
from .host.bind import match_names
from .host.weights import merge_named
from .text.layerwise_clip import add_vocabulary, vocabulary_of
from .text.layerwise_model import add_layerwise_text


def apply_concepts(model, clip, concepts: Concepts):
    """(MODEL, CLIP) that know the concepts' tokens: `W = W0 + sum_i strength_i * delta_i`.

    model: ModelPatcher, clip: comfy.sd.CLIP; neither is changed. The embeddings are always used
    unscaled (Mix-of-Show; strength 0 is the embedding alone). A concept without embeddings is an
    ordinary LoRA, and acts as ComfyUI's Load LoRA does, bit for bit. Raises ArchitectureError or
    ConceptTokenError.
    """
    if not concepts:
        return model, clip
    return apply_to_model(model, concepts), apply_to_clip(clip, concepts)


def apply_to_model(model, concepts: Concepts):
    """A clone of the ModelPatcher with the model's deltas, reading layer-wise text if a concept has
    embeddings."""
    patched = model.clone()
    for entry in concepts:
        check_fits_model(entry.concept, model)
        matched = match_names(model, None, entry.concept)
        merge_named(patched, entry.concept, matched.model, entry.strength_model)
    if any(entry.concept.tables for entry in concepts):
        add_layerwise_text(patched)
    return patched


def apply_to_clip(clip, concepts: Concepts):
    """A clone of the CLIP with the text encoder's deltas, knowing the concept tokens."""
    vocabulary = vocabulary_of(clip)
    patched = clip.clone()
    for entry in concepts:
        check_fits_clip(entry.concept, clip)
        vocabulary = vocabulary.extended(entry.concept)
        matched = match_names(None, clip, entry.concept)
        merge_named(patched.patcher, entry.concept, matched.text, entry.strength_clip)
    if vocabulary.tokens:
        add_vocabulary(patched, vocabulary)
    return patched


def check_fits_model(concept: Concept, model) -> None:
    """Raises ArchitectureError unless the concept's embeddings, if it has any, fit the model."""
    if concept.tables:
        config = model.model.model_config.unet_config
        check_made_for(concept, architecture_of(config).name, config["context_dim"], "MODEL")


def check_fits_clip(concept: Concept, clip) -> None:
    """Raises ArchitectureError unless concept tokens can be given to this CLIP."""
    if not concept.tables:
        return
    encoder = getattr(clip.cond_stage_model, "clip_l", None)
    if encoder is None or getattr(clip.cond_stage_model, "clip_g", None) is not None:
        raise ArchitectureError(
            "this CLIP is not SD1.5's text encoder (one CLIP-L); concepts for SD1.5 need the CLIP "
            "of an SD1.5 checkpoint"
        )
    width = encoder.transformer.get_input_embeddings().embedding_dim
    check_made_for(concept, "sd15", width, "CLIP")


def check_made_for(concept: Concept, architecture: str, width: int, what: str) -> None:
    """Raises ArchitectureError unless the concept's embeddings fit `what` (MODEL or CLIP)."""
    if concept.architecture != architecture:
        raise ArchitectureError(
            f"the concept '{concept.name}' was made for {concept.architecture} "
            f"({len(ARCHITECTURES[concept.architecture].layers)} cross-attention layers), this "
            f"{what} is {architecture} ({len(ARCHITECTURES[architecture].layers)}); use a base "
            "model of the same kind"
        )
    if concept.text_width != width:
        raise ArchitectureError(
            f"the embeddings of '{concept.name}' are {concept.text_width} wide, the text of this "
            f"{what} is {width} wide; it was made for another base model"
        )
