"""Processor time of single sampling steps, several variants in one process, in turns."""

import gc
import itertools
import statistics
import sys
import time
from collections.abc import Mapping

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch
from _live_bytes import LiveBytes


def clock(device: torch.device) -> float:
    """Seconds: of the processor, or of a GPU after it has finished."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


def step_times(variant, latent: torch.Tensor, steps: int, cfg: float) -> list[float]:
    """Seconds of each step but the first, in which what lasts for a sampling is computed."""
    model, positive, negative = variant
    device = comfy.model_management.get_torch_device()
    marks = []
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "normal", steps
    )
    comfy.sample.sample_custom(
        model,
        torch.randn(latent.shape, generator=torch.Generator().manual_seed(0)),
        cfg,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        positive,
        negative,
        latent,
        callback=lambda *args: marks.append(clock(device)),
        disable_pbar=True,
        seed=0,
    )
    return [later - earlier for earlier, later in itertools.pairwise(marks)]


def compare(
    variants: Mapping[str, tuple], latent: torch.Tensor, rounds: int, steps: int, cfg: float
) -> dict[str, dict[str, float]]:
    """Median and least seconds per step of every variant; rounds go through all of them in turns,
    so that what else the machine does falls on all alike."""
    times: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name, variant in variants.items():
            times[name] += step_times(variant, latent, steps, cfg)
            gc.collect()
            print(f"  round {number + 1}: {name}: {min(times[name]):.2f} s", file=sys.stderr)
    return {
        name: {"median": statistics.median(own), "least": min(own)} for name, own in times.items()
    }


def peak_memory(variant, latent: torch.Tensor, cfg: float) -> int:
    """Bytes that a step needs at most, with the model's weights: what CUDA had allocated, or on a
    CPU the tensors that were alive at one time."""
    device = comfy.model_management.get_torch_device()
    step_times(variant, latent, 2, cfg)  # another variant's weights leave, its own come
    if device.type != "cuda":
        with LiveBytes() as live:
            step_times(variant, latent, 2, cfg)
        return live.peak + variant[0].model_size()
    torch.cuda.reset_peak_memory_stats(device)
    step_times(variant, latent, 2, cfg)
    return torch.cuda.max_memory_allocated(device)
