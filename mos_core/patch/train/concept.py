"""Train one concept on a MODEL, CLIP and VAE: checks, views, latents, then the loop."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.model_management
import torch

from ...errors import TrainError
from ...families import AttentionLayer, family_of
from ...families.rows import row_counts
from ...records import Concept
from ...train.captions import parse_captions
from ...train.loop import Progress, train
from ...train.pictures import View, check_pictures, make_views
from ...train.settings import ROWS, TrainSettings
from ...train.step import Example, make_example
from ...train.tokens import have_embeddings, parse_tokens, start_embeddings
from ...train.trainable import TrainableConcept, make_trainable
from ..apply import check_fits_clip, check_fits_model
from ..host.autograd import autograd_on
from ..text.layerwise_clip import embedding_widths, stock_tokenizer, vocabulary_of
from .checks import check_trainable
from .session import Session, open_session
from .targets import targets_of
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
    model: Any,
    clip: Any,
    vae: Any,
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
    words = parse_tokens(wanted.tokens, settings.layerwise) if resume is None else resume.words
    captions = check_training_set(pictures, settings)
    check_trainable(model, clip, vae, words, settings)
    check_words_free(clip, words)
    trainable = new_parameters(model, clip, words, wanted.initializer, settings, resume)
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
    model: Any,
    clip: Any,
    words: tuple[str, ...],
    initializer: str,
    settings: TrainSettings,
    resume: Concept | None,
) -> TrainableConcept:
    """What is trained, at its start or where `resume` left off."""
    family, attention = family_of(model.model.model_config.unet_config)
    if resume is not None:
        check_fits_model(resume, model)
        check_fits_clip(resume, clip)
    targets = targets_of(model, clip, family, attention, settings.layers)
    rows = rows_of_tables(attention, settings, resume)
    with autograd_on():
        starts: dict[str, dict[str, torch.Tensor]] = {}
        if resume is None and have_embeddings(words):
            for encoder, width in embedding_widths(clip).items():
                of_word = partial(word_embedding, clip, encoder)
                starts[encoder] = start_embeddings(
                    words, initializer, of_word, width, settings.seed
                )
        return make_trainable(words, starts, targets, settings, rows, family.name, resume)


def rows_of_tables(
    attention: Sequence[AttentionLayer], settings: TrainSettings, resume: Concept | None
) -> int:
    """How many embeddings a token has: those of `resume`, else one for every layer, or for every
    block of layers that ComfyUI calls a spatial transformer."""
    known = [t.shape[0] for own in (resume.tables if resume else {}).values() for t in own.values()]
    if max(known, default=1) > 1:
        return max(known)
    fewest, most = min(row_counts(attention)), max(row_counts(attention))
    return most if settings.rows == ROWS[1] else fewest


def check_words_free(clip: Any, words: Sequence[str]) -> None:
    """Raises TrainError for a token that a text encoder or a loaded concept already has."""
    taken = {token.casefold() for token in vocabulary_of(clip).tokens}
    inner = stock_tokenizer(clip)
    for word in words if have_embeddings(words) else ():
        if word.casefold() in taken:
            raise TrainError(
                f"{word} already belongs to a concept that is applied to this CLIP; choose "
                "another token, or connect the CLIP without it"
            )
        for encoder in embedding_widths(clip):
            if len(getattr(inner, encoder).tokenizer(word)["input_ids"]) == 3:
                raise TrainError(
                    f"{word} already is a word of the text encoder; choose another token"
                )


def views_of(pictures: TrainingSet, captions: Sequence[str], settings: TrainSettings) -> list[View]:
    """Normal tensors, not inference tensors, as gradients need them."""
    with autograd_on():
        images = [image.detach().clone().float().cpu() for image in pictures.images]
        masks = [mask.detach().clone().float().cpu() for mask in pictures.masks]
        square = settings.shape == "square"
        size, count = settings.resolution, settings.views
        return make_views(images, masks, captions, size, count, settings.seed, square)


def encode_views(
    model: Any, vae: Any, views: Sequence[View], settings: TrainSettings
) -> list[Example]:
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
