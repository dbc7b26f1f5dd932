"""Every method in every type, on the CPU and on a GPU, against float32 on the CPU.

How far a half-precision picture may be off is not guessed: it is a multiple of what rounding the
model's weights to that type does to the same picture in float32.
"""

import functools

import pytest
import torch

from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.apply import ApplyConcepts
from mix_of_show.nodes.compose import ComposerAttention
from mix_of_show.nodes.fuse import FuseConcepts
from mix_of_show.nodes.sample import RegionalAttention
from support.devices import difference, free_everything, models_on, rounded_models
from support.sampling import encode, sample

SIZE = (16, 32)
TIMES = 6.0  # of what rounding the weights does
LEAST = {torch.float32: 2e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of a picture, relative
CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param("cuda", marks=pytest.mark.gpu)]
REGIONS = Regions(
    256,
    128,
    (
        Region("photo of a <a1> <a2>", box=Box(0, 0, 0.45, 1)),
        Region("a <b1> <b2>", box=Box(0.55, 0, 1, 1)),
    ),
)
QUIET = {"guidance_steps": 0, "reinitialise": False}


def drawn(model, clip, prompt="photo of a"):
    return sample(model, encode(clip, prompt), encode(clip, ""), size=SIZE, steps=2, cfg=4.0)


def applied(model, clip, concepts):
    return drawn(*ApplyConcepts.execute(model, clip, concepts).args[:2], "a <a1> <a2>, <b1> <b2>")


def regional(model, clip, concepts):
    model, clip = ApplyConcepts.execute(model, clip, concepts).args[:2]
    return drawn(RegionalAttention.execute(model, clip, REGIONS).args[0], clip)


def composed(model, clip, concepts):
    return drawn(*ComposerAttention.execute(model, clip, concepts, REGIONS, **QUIET).args[:2])


def guided(model, clip, concepts):
    led = {"reinitialise": False}
    return drawn(*ComposerAttention.execute(model, clip, concepts, REGIONS, **led).args[:2])


def begun_anew(model, clip, concepts):
    return drawn(*ComposerAttention.execute(model, clip, concepts, REGIONS).args[:2])


def fused(model, clip, concepts):
    settings = {"steps": 2, "width": 128, "height": 128, "text_rows": "all tokens", "ridge": 0.02}
    result = FuseConcepts.execute(model, clip, concepts, **settings).args
    return drawn(*result[:2], "a <a1> <a2>")


METHODS = {m.__name__: m for m in (applied, regional, composed, guided, begun_anew, fused)}
# Where a region's latent is begun anew is the place of the largest of many sums, which on a random
# model are nearly equal: on a GPU, bf16 finds another place than float32.
CHOOSES = {("begun_anew", torch.bfloat16, "cuda")}
SOLVES = {"fused": 5e-3}  # of a float32 picture: rounding comes out of a system of equations larger


@pytest.fixture(scope="module")
def expected(concepts):
    """What a method draws in float32 on the CPU, and what rounding the weights does to it."""

    @functools.cache
    def of(method: str, dtype: torch.dtype) -> tuple[torch.Tensor, float]:
        picture = METHODS[method](*models_on(CPU, torch.float32), concepts)
        if dtype == torch.float32:
            return picture, 0.0
        return picture, difference(METHODS[method](*rounded_models(dtype), concepts), picture)

    return of


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", list(LEAST), ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_method_draws_what_float32_draws_on_the_cpu(method, dtype, device, concepts, expected):
    device = torch.device(device)
    if device == CPU and dtype == torch.float16:
        pytest.skip("a CPU computes in float32 or bfloat16")
    picture, disturbed = expected(method, dtype)
    found = METHODS[method](*models_on(device, dtype), concepts)
    assert torch.isfinite(found).all()
    if (method, dtype, device.type) in CHOOSES:
        return
    least = max(LEAST[dtype], SOLVES.get(method, 0))
    assert difference(found, picture) <= max(least, TIMES * disturbed)


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_memory_comes_back_after_a_run(method, concepts):
    device = torch.device("cuda")
    METHODS[method](*models_on(device, torch.float16), concepts)  # what CUDA itself keeps
    free_everything()
    before = torch.cuda.memory_allocated(device)
    METHODS[method](*models_on(device, torch.float16), concepts)
    free_everything()
    assert torch.cuda.memory_allocated(device) <= before + 2**20


@pytest.mark.gpu
@pytest.mark.parametrize("method", ["applied", "regional", "composed"])
def test_a_method_waits_for_the_device_no_oftener_than_plain_sampling(method, concepts):
    """What synchronises is counted inside the model's calls, after the first: there, nothing."""
    device = torch.device("cuda")
    model, clip = models_on(device, torch.float16)
    waits = []

    def watch(apply_model, arguments):
        torch.cuda.set_sync_debug_mode("error" if waits else "default")
        try:
            waits.append(1)
            return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])
        finally:
            torch.cuda.set_sync_debug_mode("default")

    model.set_model_unet_function_wrapper(watch)
    METHODS[method](model, clip, concepts)
    assert len(waits) == 2


@pytest.mark.gpu
@pytest.mark.parametrize("method", METHODS)
def test_low_memory_loading_draws_the_same(method, concepts, expected):
    """The model is streamed layer by layer: a load that leaves almost nothing on the device."""
    device = torch.device("cuda")
    model, clip = models_on(device, torch.float32)
    stock = model.partially_load
    model.partially_load = lambda to, extra_memory=0, **options: stock(to, 1, **options)
    picture, _ = expected(method, torch.float32)
    found = METHODS[method](model, clip, concepts)
    assert difference(found, picture) <= max(LEAST[torch.float32], SOLVES.get(method, 0))
