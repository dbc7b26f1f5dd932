"""A short training on tiny models."""

import hashlib

import pytest
import torch

from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.train.settings import TrainSettings
from mix_of_show.mos_core.train.trainable import TrainableConcept, make_trainable

from .tiny_models import random_taesd

SETTINGS = TrainSettings(
    steps=4, resolution=64, views=1, rate_embedding=1e-2, rate_text=1e-3, rate_unet=1e-3,
    embedding_norm=0,
)  # fmt: skip
TOKENS, START, CAPTION = "<x1> <x2>", "<rand-0.5> man", ["photo of a <TOK>, red, big"]


@pytest.fixture(scope="module")
def vae():
    return random_taesd()


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(64, 80, 3, generator=generator) for _ in range(2)]
    masks = [torch.zeros(64, 80) for _ in range(2)]
    for mask in masks:
        mask[8:40, 20:60] = 1
    return images, masks


@pytest.fixture
def run(unet, clip, vae, pictures):
    def run(settings=SETTINGS, on_step=lambda progress, session: None, resume=None, **given):
        arguments = {"images": pictures[0], "masks": pictures[1], "captions": CAPTION, **given}
        images, masks, captions = (arguments.pop(k) for k in ("images", "masks", "captions"))
        tokens, start = arguments.pop("tokens", TOKENS), arguments.pop("start", START)
        wanted = Wanted("concept", tokens, start)
        given = TrainingSet(images, masks, captions)
        return train_concept(unet, clip, vae, given, wanted, settings, on_step, resume)

    return run


def trainable_of(concept, unet, clip) -> TrainableConcept:
    """The concept's values as parameters."""
    family, attention = family_of(unet.model.model_config.unet_config)
    targets = targets_of(unet, clip, family, attention, "attention")
    return make_trainable((), {}, targets, SETTINGS, len(attention), family.name, concept)


def weights_hash(module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def flat(concept) -> dict[str, torch.Tensor]:
    factors = {**concept.text, **{f"u.{k}": v for k, v in concept.unet.items()}}
    pairs = {f"{k}.{half}": getattr(v, half) for k, v in factors.items() for half in ("down", "up")}
    return {**concept.embeddings, **pairs}
