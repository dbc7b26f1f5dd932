"""What Composer Attention checks of its inputs before all work."""

from typing import Any

from ...errors import ConceptTokenError
from ...records import Concepts
from ..text.layerwise_clip import vocabulary_of


def check_base(clip: Any, concepts: Concepts) -> None:
    """Raises ConceptTokenError if the CLIP already knows one of the concepts."""
    known = {token.casefold() for token in vocabulary_of(clip).tokens}
    for entry in concepts:
        if any(token.casefold() in known for token in entry.concept.tokens):
            raise ConceptTokenError(
                f"the CLIP already holds the concept '{entry.concept.name}', from Apply Concepts "
                "or a fusion, for the whole picture. Composer: Regional LoRA puts each concept "
                "into its region by itself: connect the base MODEL and CLIP, from the checkpoint"
            )
