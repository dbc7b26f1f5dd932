"""MODEL and CLIP that do not belong together: seen before, or when a sampling begins."""

from typing import Any

from ...errors import ConceptTokenError
from ...regions.region import Regions
from ...text.vocabulary import TOKEN_LIKE
from ..host.sampling_notes import Sampling, Tell, add_sampling_notes
from .layerwise_clip import vocabulary_of
from .layerwise_model import KEY, MARK, WrappersMP

PLAIN_TEXT = (
    "This picture's prompts were encoded by another CLIP, so concept tokens in them are plain "
    "words. Connect the CLIP output of this node to the text encode nodes, positive and negative."
)
OTHER_CLIP = (
    "The MODEL holds concepts, the CLIP is one without: its text is not the one that the concepts "
    "were made for. Connect the CLIP output of the node that the MODEL comes from."
)


def holds_concepts(model: Any) -> bool:
    """Whether a ModelPatcher is made for layer-wise text."""
    return bool(model.get_wrappers(WrappersMP.DIFFUSION_MODEL, KEY))


def tell_of_plain_text(model: Any, clip: Any, tell: Tell) -> None:
    """Lets `tell` hear when `model` draws a picture none of whose prompts comes from `clip`.

    model, clip: ours, of one node. Nothing to hear for a clip that knows no concept tokens.
    """
    if vocabulary_of(clip).tokens:
        add_sampling_notes(model, "mix_of_show_plain_text", plain_text_notes, tell)


def plain_text_notes(sampling: Sampling) -> tuple[str, ...]:
    entries = [entry for conds in sampling.conds.values() for entry in conds or ()]
    if not entries or any(MARK in entry.get("model_conds", {}) for entry in entries):
        return ()
    return (PLAIN_TEXT,)


def check_same_source(model: Any, clip: Any, regions: Regions) -> tuple[str, ...]:
    """Notes on a MODEL with concepts and a CLIP without. Raises ConceptTokenError where a region
    names a concept, which would come out as a blob."""
    if not holds_concepts(model) or vocabulary_of(clip).tokens:
        return ()
    for region in regions.regions:
        found = TOKEN_LIKE.search(region.prompt)
        if found:
            raise ConceptTokenError(
                f"the region '{region.name}' names {found[0]}, but this CLIP knows no concepts. "
                "Connect the CLIP output of the node that the MODEL comes from (Load Fused "
                "Concepts, Fuse Concepts, Apply Concepts)"
            )
    return (OTHER_CLIP,)
