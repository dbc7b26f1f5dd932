"""Training on a GPU, in every type, against float32 on the CPU: float16 with its loss scaling."""

from dataclasses import replace

import comfy.model_management
import pytest
import torch

from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.train.settings import TrainSettings
from support.devices import free_everything, models_on
from support.tiny_models import random_taesd

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
NEAR = {"fp32": 2e-3, "bf16": 0.05, "fp16": 0.01}  # of each step's loss, relative
SETTINGS = TrainSettings(
    steps=4, resolution=64, views=1, rate_embedding=1e-2, rate_text=1e-3, rate_unet=1e-3,
    embedding_norm=0,
)  # fmt: skip


@pytest.fixture(scope="module")
def pictures():
    generator = torch.Generator().manual_seed(1)
    images = [torch.rand(64, 80, 3, generator=generator) for _ in range(2)]
    return TrainingSet(images, [], ["photo of a <TOK>, red, big"])


def train(
    device: torch.device, dtype: str, pictures, on_step=lambda progress, session: None, text=None
):
    """text: the device of the text encoder, if it is another one."""
    weights = torch.float32 if dtype == "fp32" or device == CPU else torch.float16
    model, clip = models_on(device, weights, text)
    wanted = Wanted("concept", "<x1> <x2>", "<rand-0.5> man")
    settings = replace(SETTINGS, dtype=dtype)
    return train_concept(model, clip, random_taesd(), pictures, wanted, settings, on_step)


@pytest.fixture(scope="module")
def expected(pictures):
    """The losses of float32 on the CPU."""
    with torch.inference_mode():
        return train(CPU, "fp32", pictures)[1].losses


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", list(NEAR))
def test_a_training_loses_what_it_loses_on_the_cpu(dtype, device, pictures, expected):
    scaled = []
    concept, progress = train(
        device, dtype, pictures, lambda progress, session: scaled.append(session.needs_loss_scaling)
    )
    assert set(scaled) == {dtype == "fp16"}
    assert progress.losses == pytest.approx(expected, rel=NEAR[dtype])
    assert all(torch.isfinite(pair.up).all() for pair in concept.deltas.values())
    assert any(pair.up.abs().max() > 0 for pair in concept.deltas.values())


@pytest.mark.gpu
def test_a_text_encoder_that_stays_on_the_cpu_is_trained_there(pictures, expected):
    concept, progress = train(torch.device("cuda"), "fp32", pictures, text=CPU)
    assert progress.losses == pytest.approx(expected, rel=NEAR["fp32"])
    assert any(site.path.startswith("clip_l") for site in concept.deltas)


@pytest.mark.gpu
@pytest.mark.parametrize("stops", [False, True])
def test_memory_comes_back_after_a_training_and_after_a_cancel(stops, pictures):
    device = torch.device("cuda")

    def cancel(progress, session):
        if stops:
            raise comfy.model_management.InterruptProcessingException

    def once():
        try:
            train(device, "fp16", pictures, cancel)
        except comfy.model_management.InterruptProcessingException:
            assert stops
        free_everything()

    once()  # what CUDA itself keeps
    before = torch.cuda.memory_allocated(device)
    once()
    assert torch.cuda.memory_allocated(device) <= before + 2**20
