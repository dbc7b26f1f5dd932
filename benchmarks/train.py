"""A training step against a bare forward and backward of the same UNet (ratio, one run).

scripts/bench train [--channels 320] [--size 512] [--batch 2] [--steps 3] [--dtype fp32] ...

The step is the whole of it: text for 16 layers (one caption for the batch; --captions: one each),
LoRA branches, loss, backward, AdamW. Bare: the UNet with frozen weights, gradients with respect
to its two inputs, latent and text, same batch, same attention function, no LoRA, one narrow text.
"""

import argparse
import json
import statistics
import time

import torch
from _models import random_clip, random_sd15

from mix_of_show.mos_core.families import family_of
from mix_of_show.mos_core.patch.host.forward import DTYPES, plain_attention
from mix_of_show.mos_core.patch.train.session import open_session
from mix_of_show.mos_core.patch.train.targets import targets_of
from mix_of_show.mos_core.train.pictures import make_views
from mix_of_show.mos_core.train.settings import TrainSettings
from mix_of_show.mos_core.train.snapshot import make_optimizer
from mix_of_show.mos_core.train.step import make_example, step_loss
from mix_of_show.mos_core.train.trainable import make_trainable


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=int, default=320, help="320 is SD1.5")
    parser.add_argument("--size", type=int, default=512, help="pixels")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    parser.add_argument("--captions", action="store_true", help="a caption of its own per image")
    parser.add_argument("--checkpointing", action="store_true")
    return parser.parse_args()


def clock(device) -> float:
    """Seconds; on a CPU the processor's own, so that other work on the machine does not count."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    args = arguments()
    dtype = DTYPES[args.dtype]
    with torch.inference_mode():
        model, clip = random_sd15(args.channels, dtype=dtype), random_clip(dtype)
    settings = TrainSettings(batch_size=args.batch, resolution=args.size, views=1)
    with torch.inference_mode(False), torch.enable_grad():
        starts = {"<x1>": torch.randn(768) * 0.013, "<x2>": torch.randn(768) * 0.013}
        family, attention = family_of(model.model.model_config.unet_config)
        targets = targets_of(model, clip, family, attention, settings.layers)
        words, tables = tuple(starts), {"clip_l": starts}
        trainable = make_trainable(words, tables, targets, settings, len(attention), family.name)
        images = [torch.rand(args.size, args.size, 3) for _ in range(args.batch)]
        kinds = [f"photo of a <TOK>{i if args.captions else ''}" for i in range(args.batch)]
        views = make_views(images, [], kinds, args.size, 1, 0)
        latents = torch.randn(args.batch, 4, args.size // 8, args.size // 8)
        examples = [make_example(*pair, settings) for pair in zip(views, latents, strict=True)]

    times = {"step": [], "bare": []}
    with open_session(model, clip, trainable, "auto", args.checkpointing) as session:
        optimizer = make_optimizer(trainable, settings)
        unet = session.model.diffusion_model

        def step(number: int) -> None:
            loss = step_loss(session, trainable.words, examples, settings, number)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        x = latents.to(session.device, dtype).requires_grad_()
        t = torch.full((args.batch,), 500.0, device=session.device)
        text = torch.randn(args.batch, 77, 768).to(x).requires_grad_()
        alike = {"optimized_attention_override": plain_attention}

        def bare(number: int) -> None:
            hooks = {m: m._forward_hooks.copy() for m in unet.modules() if m._forward_hooks}
            for module in hooks:
                module._forward_hooks.clear()
            out = unet(x, t, context=text, transformer_options=dict(alike))
            out.float().square().mean().backward()
            for module, saved in hooks.items():
                module._forward_hooks.update(saved)
            text.grad = x.grad = None

        for number in range(args.steps + 1):  # the first of each warms up
            for name, work in (("bare", bare), ("step", step)):
                begun = clock(session.device)
                work(number)
                times[name].append(clock(session.device) - begun)
    ratios = [a / b for a, b in zip(times["step"][1:], times["bare"][1:], strict=True)]
    result = {
        "benchmark": "train",
        **vars(args),
        "device": str(session.device),
        "seconds_per_step": statistics.median(times["step"][1:]),
        "seconds_bare": statistics.median(times["bare"][1:]),
        "ratio": statistics.median(ratios),
        "limit": 1.3,
    }
    if torch.device(session.device).type == "cuda":
        result["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    print(json.dumps(result))


if __name__ == "__main__":
    main()
