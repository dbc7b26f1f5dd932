"""What the pack costs on a GPU at full size, in one command of less than nine minutes.

scripts/bench gpu [--only sd15 sdxl ...] [--seconds 520] [--tiny]

Random weights, nothing is loaded from disk: fusion of 14 concepts on SD1.5 and of 4 on SDXL, a
picture of 1024 x 512 with five concepts in 50 steps, steps at 1024 x 1024 on SDXL with four
concepts of rank 32 and on two diffusion transformers (one block of each kind, at full width) with
four regions of rank 32, and training steps; each beside plain ComfyUI and ComfyUI's masked LoRA
hooks in the same run, with time and peak memory. What is not reached in `--seconds` is listed
under "left_out". `--tiny` runs all of it on narrow models, to try the command itself on a CPU.
"""

import argparse
import functools
import gc
import itertools
import json
import sys
import time
import traceback
from collections.abc import Callable

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.taesd.taesd
import torch
from _models import (
    fill_randomly,
    random_clip,
    random_sd15,
    random_sdxl,
    random_sdxl_clip,
    random_transformer,
)
from _random_concepts import hooked, random_concepts, regions_for
from _steps import step_times
from dit import CHANNELS, hooked_regions, text, with_regions

from mix_of_show.mos_core.compose.settings import GuidanceSettings
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.patch.compose.composer import ComposerSettings, apply_composer
from mix_of_show.mos_core.patch.fuse.concepts import fuse_concepts
from mix_of_show.mos_core.patch.train.concept import TrainingSet, Wanted, train_concept
from mix_of_show.mos_core.records import Concepts
from mix_of_show.mos_core.train.settings import TrainSettings

HALF = torch.float16


def device() -> torch.device:
    return comfy.model_management.get_torch_device()


def measured(work: Callable[[], object]) -> dict[str, float]:
    """Seconds and, on CUDA, peak bytes of one run."""
    gc.collect()
    cuda = device().type == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begun = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize()
    found = {"seconds": time.perf_counter() - begun}
    if cuda:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


class Size:
    """How large everything is: full, or tiny to try the command."""

    def __init__(self, tiny: bool):
        self.tiny = tiny
        self.channels = 32 if tiny else 320
        self.dtype = torch.float32 if device().type == "cpu" else HALF
        self.layers = 3 if tiny else None
        self.sd15, self.sdxl = (functools.cache(made) for made in (self._sd15, self._sdxl))

    def __call__(self, full: int, tiny: int) -> int:
        return tiny if self.tiny else full

    def _sd15(self) -> tuple:
        return random_sd15(self.channels, dtype=self.dtype), random_clip(self.dtype)

    def _sdxl(self) -> tuple:
        clip = random_sdxl_clip(self.layers, self.dtype)
        return random_sdxl(self.channels, self.dtype), clip


def encode(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def variants(model, clip, concepts: Concepts, width: int, height: int, guided: bool) -> dict:
    """Name -> (MODEL, positive, negative): plain, ours, and masked hooks."""
    regions = regions_for(concepts, width, height)
    quiet = ComposerSettings(guidance=GuidanceSettings(steps=0, reinitialise=False))
    texts = encode(clip, "a street"), encode(clip, "")
    found = {"plain": (model, *texts)}
    patched, coder, *_ = apply_composer(model, clip, concepts, regions, quiet)
    found["ours"] = (patched, encode(coder, "a street"), encode(coder, ""))
    if guided:
        led, coder, *_ = apply_composer(model, clip, concepts, regions, ComposerSettings())
        found["ours, guided"] = (led, encode(coder, "a street"), encode(coder, ""))
    found["masked LoRA hooks"] = (model, *hooked(clip, concepts, width, height))
    return found


def whole_picture(variant, width: int, height: int, steps: int) -> None:
    model, positive, negative = variant
    latent = torch.zeros(1, 4, height // 8, width // 8)
    sigmas = comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "normal", steps
    )
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sampler = comfy.samplers.sampler_object("dpmpp_2m")
    comfy.sample.sample_custom(
        model, noise, 7.5, sampler, sigmas, positive, negative, latent, disable_pbar=True, seed=0
    )


def picture_sd15(size: Size) -> dict:
    """1024 x 512, five concepts, 50 steps."""
    width, height, steps = size(1024, 128), size(512, 64), size(50, 2)
    model, clip = size.sd15()
    concepts = random_concepts(model, clip, size(5, 2), 4)
    result = {}
    for name, variant in variants(model, clip, concepts, width, height, guided=True).items():
        whole_picture(variant, width, height, 2)  # the first run loads and warms up
        result[name] = measured(lambda v=variant: whole_picture(v, width, height, steps))
        print(f"  {name}: {result[name]}", file=sys.stderr)
    return result


def steps_sdxl(size: Size) -> dict:
    """1024 x 1024, four concepts of rank 32, single steps."""
    side = size(1024, 128)
    model, clip = size.sdxl()
    concepts = random_concepts(model, clip, size(4, 2), size(32, 4))
    latent = torch.zeros(1, 4, side // 8, side // 8)
    return steps_of(variants(model, clip, concepts, side, side, guided=True), latent, 7.5)


def steps_of(variants: dict, latent: torch.Tensor, cfg: float) -> dict:
    """Each variant's peak and seconds per step, and the latter as a ratio to the plain model's."""
    result: dict = {}
    for name, variant in variants.items():
        step_times(variant, latent, 2, cfg)
        times: list[float] = []
        result[name] = measured(lambda v=variant, t=times: t.extend(step_times(v, latent, 4, cfg)))
        result[name]["seconds_per_step"] = min(times)
        print(f"  {name}: {result[name]}", file=sys.stderr)
    plain = result["plain"]["seconds_per_step"]
    return {name: {**own, "ratio": own["seconds_per_step"] / plain} for name, own in result.items()}


def steps_dit(size: Size) -> dict:
    """1024 x 1024, four regions, each with its prompt and a LoRA of rank 32 on every layer, without
    cfg; one block of each kind."""
    side, rank = size(1024, 64), size(32, 4)
    latent, found = torch.zeros(1, CHANNELS, side // 8, side // 8), {}
    for family in ("flux", "z_image"):
        narrow = {"flux": {"hidden_size": 384, "num_heads": 3}, "z_image": {"dim": 384,
                  "n_heads": 3, "n_kv_heads": 3}}[family] if size.tiny else {}  # fmt: skip
        dtype = torch.float32 if device().type == "cpu" else torch.bfloat16
        model = random_transformer(family, dtype, **narrow)
        prompt = text(family, 1)
        ways = {
            "plain": (model, prompt, prompt),
            "ours": (with_regions(model, family, 4, rank), prompt, prompt),
            "masked LoRA hooks": (model, *hooked_regions(model, family, 4, rank, side)),
        }
        found[family] = steps_of(ways, latent, 1.0)
    return found


def fusion(models: tuple, count: int, steps: int, side: int, refine: int) -> dict:
    model, clip = models
    concepts = random_concepts(model, clip, count, 4)
    settings = FuseSettings(
        ridge=0.02, steps=steps, width=side, height=side, text_rows="all tokens",
        refine_steps=refine,
    )  # fmt: skip
    found = measured(lambda: fuse_concepts(model, clip, concepts, settings, lambda done, of: None))
    return {"concepts": count, "steps": steps, "side": side, "refine_steps": refine, **found}


def fusion_sd15(size: Size) -> dict:
    """14 concepts, 20 steps of 512 x 512, exact."""
    return fusion(size.sd15(), size(14, 2), size(20, 1), size(512, 64), 0)


def fusion_sdxl(size: Size) -> dict:
    """4 concepts, 20 steps of 1024 x 1024, exact."""
    return fusion(size.sdxl(), size(4, 1), size(20, 1), size(1024, 64), 0)


def random_vae():
    """A TAESD of random weights: what trains a concept only asks it for latents."""
    vae = comfy.sd.VAE(sd=comfy.taesd.taesd.TAESD().state_dict())
    fill_randomly(vae.first_stage_model, 2)
    return vae


def training(models: tuple, steps: int, side: int, checkpointing: bool) -> dict:
    """Seconds of a training step, the first left out, and the peak."""
    marks: list[float] = []
    pictures = [
        torch.rand(side, side, 3, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
    ]
    settings = TrainSettings(
        steps=steps, resolution=side, views=1, rank=8, checkpointing=checkpointing
    )
    wanted = Wanted("bench", "<x1> <x2>", "<rand-0.013> <rand-0.013>")
    shown = TrainingSet(pictures, [], ["photo of a <TOK>"])

    def note(progress, session) -> None:
        if device().type == "cuda":
            torch.cuda.synchronize()
        marks.append(time.perf_counter())

    found = measured(lambda: train_concept(*models, random_vae(), shown, wanted, settings, note))
    per_step = [after - before for before, after in itertools.pairwise(marks)]
    return {
        "side": side,
        "checkpointing": checkpointing,
        "seconds_per_step": min(per_step),
        **found,
    }


def training_sd15(size: Size) -> dict:
    """Rank 8, batch 2, 512 x 512."""
    return training(size.sd15(), size(30, 3), size(512, 64), False)


def training_sdxl(size: Size) -> dict:
    """Rank 8, batch 2, 1024 x 1024, blocks computed again in the backward pass."""
    return training(size.sdxl(), size(10, 3), size(1024, 64), True)


SECTIONS: dict[str, Callable[[Size], dict]] = {
    "picture_sd15": picture_sd15,
    "fusion_sd15": fusion_sd15,
    "steps_sdxl": steps_sdxl,
    "steps_dit": steps_dit,
    "fusion_sdxl": fusion_sdxl,
    "training_sd15": training_sd15,
    "training_sdxl": training_sdxl,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--seconds", type=float, default=520)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    begun, size = time.monotonic(), Size(args.tiny)
    card = torch.cuda.get_device_name() if device().type == "cuda" else "CPU"
    result: dict = {"benchmark": "gpu", "card": card, "tiny": args.tiny, "left_out": []}
    with torch.inference_mode():
        for name in args.only:
            if time.monotonic() - begun > args.seconds:
                result["left_out"].append(name)
                continue
            print(f"{name} ...", file=sys.stderr)
            try:
                result[name] = SECTIONS[name](size)
                print(json.dumps({name: result[name]}), file=sys.stderr)  # should it be stopped
            except Exception as error:  # the other sections' figures are not to be lost
                traceback.print_exc()
                result[name] = {"error": f"{type(error).__name__}: {error}"}
            comfy.model_management.unload_all_models()
            comfy.model_management.soft_empty_cache()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
