"""SDXL and diffusion transformers on a GPU against float32 on the CPU: regions with LoRAs of their
own, stored in every type; and what a cancelled run leaves behind.
"""

import comfy.model_management
import comfy.model_patcher
import pytest
import torch

from mix_of_show.mos_core.regions.region import Box, Region, Regions
from mix_of_show.nodes.compose import ComposerAttention
from support.devices import difference, free_everything
from support.dit_models import dit_conditioning, draw_dit, tiny_dit
from support.dit_regions import LEFT, RIGHT, random_lora, region, text_of, with_regions
from support.sampling import encode, sample
from support.sdxl_concepts import tiny_concept
from support.sdxl_models import tiny_sdxl, tiny_sdxl_clip

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.gpu)]
TRANSFORMERS = ("flux", "flux2", "chroma", "z_image", "qwen_image", "krea2", "cosmos")
FP8 = torch.float8_e4m3fn
LIMITS = {torch.float32: 2e-3, torch.bfloat16: 0.1, torch.float16: 0.03}
TIMES = 3.0  # of what the type does to the plain model's picture


def moved(model, device: torch.device):
    """The model as one that runs on `device`."""
    return comfy.model_patcher.ModelPatcher(model.model, load_device=device, offload_device=CPU)


def rounded(model, dtype: torch.dtype):
    """A float32 model whose weights could be stored in `dtype`."""
    for weight in model.model.parameters():
        weight.data.copy_(weight.data.to(dtype).float())
    return model


def sides(name: str, model):
    """Two halves, each with a prompt and a LoRA of its own."""
    plain = tiny_dit(name)  # LoRAs are made from shapes alone
    drawn = (
        region(LEFT, text_of(name, 3, 4), random_lora(plain, 1)),
        region(RIGHT, text_of(name, 5, None, 14), random_lora(plain, 2)),
    )
    return with_regions(model, drawn)


def draw(name: str, model):
    return draw_dit(sides(name, model), name, dit_conditioning(name, 1), dit_conditioning(name, 2))


def draw_plain(name: str, model):
    return draw_dit(model, name, dit_conditioning(name, 1), dit_conditioning(name, 2))


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_with_fp8_weights_draws_regions_as_float32_does_with_those(name, device):
    """Computed in float32: what the type stores is all that it may change."""
    stored = moved(tiny_dit(name, FP8, torch.float32), device)
    found = draw(name, stored)
    expected = draw(name, rounded(tiny_dit(name), FP8))
    assert difference(found, expected) <= LIMITS[torch.float32]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_transformer_draws_regions_as_on_the_cpu(name, dtype):
    model = moved(tiny_dit(name, dtype), torch.device("cuda"))
    exact = rounded(tiny_dit(name), dtype)
    disturbed = difference(draw_plain(name, model), draw_plain(name, exact))
    found = difference(draw(name, model), draw(name, exact))
    assert found <= max(LIMITS[dtype], TIMES * disturbed)


def sdxl_on(device: torch.device, dtype: torch.dtype):
    clip = tiny_sdxl_clip(dtype)
    free_everything()  # a CLIP made for the CPU is loaded there at once, and would stay
    clip.patcher.load_device = device
    return moved(tiny_sdxl(dtype), device), clip


def composed(model, clip, **options):
    """A latent drawn by Composer Attention with two concepts side by side."""
    concepts = tuple(tiny_concept(model, clip, name, seed) for seed, name in enumerate("ab"))
    regions = Regions(
        256,
        128,
        (
            Region("photo of <a>", box=Box(0, 0, 0.45, 1)),
            Region("photo of <b>", box=Box(0.55, 0, 1, 1)),
        ),
    )
    model, clip = ComposerAttention.execute(model, clip, concepts, regions, **options).args[:2]
    texts = encode(clip, "a photo"), encode(clip, "")
    return sample(model, *texts, size=(16, 32), steps=2, cfg=4.0)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", list(LIMITS), ids=str)
@pytest.mark.parametrize("guided", [False, True])
def test_sdxl_draws_two_concepts_as_on_the_cpu(guided, dtype):
    options = {} if guided else {"guidance_steps": 0, "reinitialise": False}
    found = composed(*sdxl_on(torch.device("cuda"), dtype), **options)
    model, clip = sdxl_on(CPU, torch.float32)
    for module in (model.model, clip.cond_stage_model):
        for weight in module.parameters():
            weight.data.copy_(weight.data.to(dtype).float())
    assert difference(found, composed(model, clip, **options)) <= LIMITS[dtype]


def cancelled(model) -> None:
    """Draws with regions on a transformer, and stops in the second call of the model."""
    calls = []

    def stop(apply_model, arguments):
        calls.append(1)
        if len(calls) == 2:
            raise comfy.model_management.InterruptProcessingException
        return apply_model(arguments["input"], arguments["timestep"], **arguments["c"])

    stopping = sides("flux", model)
    stopping.set_model_unet_function_wrapper(stop)
    texts = dit_conditioning("flux", 1), dit_conditioning("flux", 2)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        draw_dit(stopping, "flux", *texts, steps=3)


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_after_a_cancel_the_model_draws_as_before_and_memory_comes_back(device):
    model = moved(tiny_dit("flux"), device)
    plain = draw_plain("flux", model)
    cancelled(model)
    assert torch.equal(draw_plain("flux", model), plain)
    if device.type == "cuda":
        free_everything()
        before = torch.cuda.memory_allocated(device)
        cancelled(model)
        free_everything()
        assert torch.cuda.memory_allocated(device) <= before + 2**20
