"""What training needs of the models, before any work."""

from collections.abc import Sequence
from typing import Any

from ...errors import ArchitectureError, TrainError
from ...families import family_of
from ...train.settings import TrainSettings
from ...train.tokens import have_embeddings
from ..host.checks import check_encoders, check_latents, check_vae
from ..host.forward import choose_dtype, prediction_of


def check_trainable(
    model: Any, clip: Any, vae: Any, words: Sequence[str], settings: TrainSettings
) -> None:
    """Raises MosError, in the user's words, for a MODEL, CLIP or VAE that training does not know,
    or that cannot do what is asked."""
    family, _ = family_of(model.model.model_config.unet_config)
    check_latents(model, "training")
    prediction_of(model.get_model_object("model_sampling"), "training")
    learns = [encoder for encoder in family.texts if encoder.learns_tokens]
    if learns:
        check_encoders(clip, family, "training")
    elif have_embeddings(words):
        raise ArchitectureError(
            f"the text encoder of {family.title} learns no tokens of its own; switch 'layerwise' "
            "off and give words without angle brackets as 'concept_tokens', for an ordinary LoRA"
        )
    check_vae(model, vae)
    choose_dtype(model, settings.dtype)
    if settings.regularisation != "off" and not have_embeddings(words):
        raise TrainError(
            "attention regularisation holds the attention of concept tokens; an ordinary LoRA has "
            "none, so set 'regularisation' to off"
        )
    rates = settings.rate_unet + (settings.rate_text if learns else 0)
    if not have_embeddings(words) and not rates:
        raise TrainError(
            "nothing would be trained: an ordinary LoRA needs a rate_unet above 0, or a rate_text "
            "where the text encoder can learn"
        )
