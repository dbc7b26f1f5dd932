"""Apply Concepts: the plain weighted sum of concepts on a clone of MODEL and CLIP."""

from functools import partial

from ..errors import ArchitectureError
from ..families.unet import ARCHITECTURES, architecture_of, comfy_text_key, comfy_unet_key
from ..records import Concept, Concepts
from .host.weights import add_deltas
from .text.layerwise_clip import add_vocabulary, vocabulary_of
from .text.layerwise_model import add_layerwise_text


def apply_concepts(model, clip, concepts: Concepts):
    """(MODEL, CLIP) that know the concepts' tokens: `W = W0 + sum_i strength_i * up_i @ down_i`.

    model: ModelPatcher, clip: comfy.sd.CLIP; neither is changed. The embeddings are always used
    unscaled (Mix-of-Show; strength 0 is the embedding alone). Raises ArchitectureError or
    ConceptTokenError.
    """
    if not concepts:
        return model, clip
    return apply_to_model(model, concepts), apply_to_clip(clip, concepts)


def apply_to_model(model, concepts: Concepts):
    """A clone of the ModelPatcher with the UNet deltas, reading layer-wise text."""
    architecture = architecture_of(model.model.model_config.unet_config)
    width = model.model.model_config.unet_config["context_dim"]
    patched = model.clone()
    for entry in concepts:
        concept = entry.concept
        check_made_for(concept, architecture.name, width, "MODEL")
        key = partial(comfy_unet_key, architecture=architecture)
        add_deltas(patched, concept.unet, key, entry.strength_model, concept.name)
    add_layerwise_text(patched)
    return patched


def apply_to_clip(clip, concepts: Concepts):
    """A clone of the CLIP with the text-encoder deltas, knowing the concept tokens."""
    encoder = getattr(clip.cond_stage_model, "clip_l", None)
    if encoder is None or getattr(clip.cond_stage_model, "clip_g", None) is not None:
        raise ArchitectureError(
            "this CLIP is not SD1.5's text encoder (one CLIP-L); concepts for SD1.5 need the CLIP "
            "of an SD1.5 checkpoint"
        )
    width = encoder.transformer.get_input_embeddings().embedding_dim
    vocabulary = vocabulary_of(clip)
    patched = clip.clone()
    for entry in concepts:
        concept = entry.concept
        check_made_for(concept, "sd15", width, "CLIP")
        vocabulary = vocabulary.extended(concept)
        add_deltas(patched.patcher, concept.text, comfy_text_key, entry.strength_clip, concept.name)
    add_vocabulary(patched, vocabulary)
    return patched


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
