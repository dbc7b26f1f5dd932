"""Train one concept on a MODEL, CLIP and VAE: checks, views, latents, then the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.model_management
import torch

from ...errors import ArchitectureError, TrainError
from ...families.unet import architecture_of
from ...records import Concept
from ...train.captions import parse_captions
from ...train.loop import Progress, train
from ...train.pictures import View, check_pictures, make_views
from ...train.settings import TrainSettings
from ...train.step import Example, make_example
from ...train.trainable import TrainableConcept, make_trainable, parse_tokens, start_embeddings
from ..host.autograd import autograd_on
from ..host.branches import text_module_shapes, unet_module_shapes
from ..host.forward import choose_dtype
from ..text.layerwise_clip import vocabulary_of
from .checks import check_trainable
from .session import Session, open_session
from .text import word_embedding


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """images: (h, w, 3) in 0..1 each; masks: (h, w) each, one per image, one for all, or none;
    captions: with <TOK>, one per image, a line per image, or one for all."""

    images: Sequence[torch.Tensor]
    masks: Sequence[torch.Tensor]
    captions: Sequence[str]


@dataclass(frozen=True)
class Wanted:
    """What a user asks for: the concept's name, its tokens ('<a1> <a2>') and how each of them
    starts ('<rand-0.013> man')."""

    name: str
    tokens: str
    initializer: str


def train_concept(
    model,
    clip,
    vae,
    pictures: TrainingSet,
    wanted: Wanted,
    settings: TrainSettings,
    on_step: Callable[[Progress, Session], None],
    resume: Concept | None = None,
    check_room: Callable[[int], None] = lambda size: None,
) -> tuple[Concept, Progress]:
    """A concept trained as Mix-of-Show does (section "single-client concept tuning").

    on_step(progress, session) is called after every step and may raise StopTraining;
    check_room(bytes) raises if the result would not fit where it will be saved. Everything that a
    user can have got wrong is raised (MosError) before any time is spent.
    """
    settings.check()
    tokens = parse_tokens(wanted.tokens) if resume is None else resume.tokens
    captions = check_training_set(pictures, settings)
    check_trainable(model, clip, vae)
    choose_dtype(model, settings.dtype)
    check_tokens_free(clip, tokens)
    trainable = new_parameters(model, clip, tokens, wanted.initializer, settings, resume)
    check_room(trainable.largest_file())
    views = views_of(pictures, captions, settings)
    examples = encode_views(model, vae, views, settings)
    with open_session(model, clip, trainable, settings.dtype, settings.checkpointing) as session:

        def after_step(progress: Progress) -> None:
            on_step(progress, session)

        return train(session, trainable, examples, settings, after_step, resume, wanted.name)


def check_training_set(pictures: TrainingSet, settings: TrainSettings) -> list[str]:
    """One caption per picture. Raises TrainError for pictures, masks or captions of no use."""
    check_pictures(pictures.images, pictures.masks)
    if settings.regularisation != "off" and not pictures.masks:
        raise TrainError("attention regularisation needs masks that show where the concept is")
    return parse_captions(pictures.captions, len(pictures.images))


def new_parameters(
    model,
    clip,
    tokens: Sequence[str],
    initializer: str,
    settings: TrainSettings,
    resume: Concept | None,
) -> TrainableConcept:
    """What is trained, at its start or where `resume` left off."""
    architecture = architecture_of(model.model.model_config.unet_config)
    width = clip.cond_stage_model.clip_l.transformer.get_input_embeddings().embedding_dim
    if resume is not None:
        check_resumable(resume, architecture.name, width)
    with autograd_on():
        starts = {}
        if resume is None:
            starts = start_embeddings(
                tokens, initializer, lambda word: word_embedding(clip, word), width, settings.seed
            )
        return make_trainable(
            starts,
            text_module_shapes(clip.cond_stage_model, settings.layers),
            unet_module_shapes(model.model, architecture, settings.layers),
            settings,
            len(architecture.layers),
            resume,
        )


def check_resumable(resume: Concept, architecture: str, width: int) -> None:
    """Raises ArchitectureError for a concept that was trained on another kind of model."""
    if (resume.architecture, resume.text_width) != (architecture, width):
        raise ArchitectureError(
            f"the concept to resume was trained on {resume.architecture} with text "
            f"{resume.text_width} wide, this model is {architecture} with {width}"
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


def views_of(pictures: TrainingSet, captions: Sequence[str], settings: TrainSettings) -> list[View]:
    """Normal tensors, not inference tensors, as gradients need them."""
    with autograd_on():
        images = [image.detach().clone().float().cpu() for image in pictures.images]
        masks = [mask.detach().clone().float().cpu() for mask in pictures.masks]
        square = settings.shape == "square"
        size, count = settings.resolution, settings.views
        return make_views(images, masks, captions, size, count, settings.seed, square)


def encode_views(model, vae, views: Sequence[View], settings: TrainSettings) -> list[Example]:
    """The views' latents, (channels, h, w) float32 on the CPU, in the scale that the model sees."""
    latents = []
    for view in views:
        comfy.model_management.throw_exception_if_processing_interrupted()
        latents.append(model.model.process_latent_in(vae.encode(view.pixels[None])).float().cpu())
    with torch.inference_mode(False):
        return [
            make_example(view, latent[0].clone(), settings)
            for view, latent in zip(views, latents, strict=True)
        ]
