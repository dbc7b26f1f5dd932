"""Train one concept on a MODEL, CLIP and VAE: checks, views, latents, then the loop."""

from collections.abc import Callable, Sequence

import comfy.model_management
import torch

from ...errors import ArchitectureError
from ...families.unet import architecture_of
from ...records import Concept
from ...train.captions import parse_captions
from ...train.loop import Progress, StopTraining, train
from ...train.pictures import check_pictures, make_views
from ...train.settings import TrainError, TrainSettings
from ...train.trainable import make_trainable, parse_tokens, start_embeddings
from ..host.autograd import autograd_on
from ..host.branches import text_module_shapes, unet_module_shapes
from ..text.layerwise_clip import vocabulary_of
from .session import choose_dtype, open_session, predicts_velocity, word_embedding


def train_concept(
    model,
    clip,
    vae,
    images: Sequence[torch.Tensor],
    masks: Sequence[torch.Tensor],
    captions: Sequence[str],
    concept_tokens: str,
    initializer: str,
    settings: TrainSettings,
    on_step: Callable[[Progress, object], None],
    resume: Concept | None = None,
    name: str = "concept",
    check_room: Callable[[int], None] = lambda size: None,
) -> tuple[Concept, Progress]:
    """A concept trained as Mix-of-Show does (section "single-client concept tuning").

    images: (h, w, 3) in 0..1 each; masks: (h, w) each, one per image or none; on_step(progress,
    session) is called after every step and may raise StopTraining; check_room(bytes) raises if
    the result would not fit where it will be saved. Everything that a user can have got wrong
    is raised (MosError) before any time is spent.
    """
    settings.check()
    tokens = parse_tokens(concept_tokens) if resume is None else resume.tokens
    check_pictures(images, masks)
    texts = parse_captions(captions, len(images))
    if settings.regularisation != "off" and not masks:
        raise TrainError("attention regularisation needs masks that show where the concept is")
    predicts_velocity(model.get_model_object("model_sampling"))
    choose_dtype(model, settings.dtype)
    architecture = architecture_of(model.model.model_config.unet_config)
    check_tokens_free(clip, tokens)

    encoder = clip.cond_stage_model.clip_l.transformer
    width = encoder.get_input_embeddings().embedding_dim
    if resume is not None and (resume.architecture, resume.text_width) != (
        architecture.name,
        width,
    ):
        raise ArchitectureError(
            f"the concept to resume was trained on {resume.architecture} with text "
            f"{resume.text_width} wide, this model is {architecture.name} with {width}"
        )
    starts = {}
    if resume is None:
        starts = start_embeddings(
            tokens, initializer, lambda word: word_embedding(clip, word), width, settings.seed
        )
    with autograd_on():
        images = [image.detach().clone().float().cpu() for image in images]
        masks = [mask.detach().clone().float().cpu() for mask in masks]
        square = settings.shape == "square"
        views = make_views(
            images, masks, texts, settings.resolution, settings.views, settings.seed, square
        )
        trainable = make_trainable(
            starts,
            text_module_shapes(clip.cond_stage_model, settings.layers),
            unet_module_shapes(model.model, architecture, settings.layers),
            settings,
            len(architecture.layers),
            resume,
        )
    check_room(trainable.largest_file())
    latents = encode_views(model, vae, views)
    with open_session(model, clip, trainable, settings.dtype, settings.checkpointing) as session:
        return train(
            session,
            trainable,
            views,
            latents,
            settings,
            lambda progress: on_step(progress, session),
            resume,
            name,
        )


def check_tokens_free(clip, tokens: Sequence[str]) -> None:
    """Raises TrainError for a token that the text encoder or a loaded concept already has."""
    taken = {t.casefold() for t in vocabulary_of(clip).tokens}
    inner = clip.tokenizer.clip_l.tokenizer
    for token in tokens:
        if token.casefold() in taken:
            raise TrainError(
                f"{token} already belongs to a concept that is applied to this CLIP; choose "
                "another token, or connect the CLIP without it"
            )
        if len(inner(token)["input_ids"]) == 3:
            raise TrainError(f"{token} already is a word of the text encoder; choose another token")


def encode_views(model, vae, views) -> list[torch.Tensor]:
    """(4, height / 8, width / 8) of each, float32 on the CPU, in the scale that the UNet sees."""
    latents = []
    for view in views:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(model.model.process_latent_in(vae.encode(view.pixels[None])).float().cpu())
    with torch.inference_mode(False):
        return [latent[0].clone() for latent in latents]


__all__ = ["StopTraining", "train_concept"]
