"""What training needs of the models, before any work."""

from ...families import family_of
from ..host.checks import check_encoders, check_latents, check_vae
from ..host.forward import prediction_of


def check_trainable(model, clip, vae) -> None:
    """Raises ArchitectureError, in the user's words, for a MODEL, CLIP or VAE that training does
    not know."""
    family, _ = family_of(model.model.model_config.unet_config)
    check_latents(model, "training")
    prediction_of(model.get_model_object("model_sampling"), "training")
    check_encoders(clip, family, "training")
    check_vae(model, vae)
