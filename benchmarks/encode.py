"""What encoding a prompt with one concept costs on SDXL, against its distinct rows in one batch.

scripts/bench encode [--layers 3] [--rows 11] [--rounds 5] [--threads 1]

Both text encoders at their real widths, `--layers` deep (32 is the full depth of the larger one),
random weights. The bare run hands ComfyUI's own encoder as many sections as the concept's tables
have distinct rows, without any of ours. Processor time on a CPU.
"""

import argparse
import json
import statistics
import sys

import comfy.model_management
import torch
from _models import random_sdxl_clip
from _steps import clock

from mix_of_show.mos_core.patch.apply import apply_to_clip
from mix_of_show.mos_core.records import Concept, WeightedConcept

PROMPT = "photo of a <bench>, standing in a garden"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--rows", type=int, nargs="+", choices=(11, 70), default=(11,))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    result: dict = {"benchmark": "encode", "layers": args.layers, "limit": 1.3}
    with torch.inference_mode():
        clip = random_sdxl_clip(args.layers)
        device = comfy.model_management.text_encoder_device()
        for rows in args.rows:
            ours = apply_to_clip(clip, (WeightedConcept(random_concept(rows)),))
            result[f"{rows} rows"] = measure(clip, ours, rows, args.rounds, device)
            print(f"{rows} rows: {result[f'{rows} rows']}", file=sys.stderr)
    print(json.dumps(result))


def random_concept(rows: int) -> Concept:
    generator = torch.Generator().manual_seed(0)
    widths = {"clip_l": 768, "clip_g": 1280}
    tables = {
        encoder: {"<bench>": torch.randn(rows, width, generator=generator) * 0.02}
        for encoder, width in widths.items()
    }
    return Concept("bench", ("<bench>",), tables, {}, "sdxl")


def measure(clip, ours, rows: int, rounds: int, device) -> dict[str, float]:
    """Median seconds of a stock prompt, of `rows` stock sections in one batch, and of ours."""
    plain = PROMPT.replace("<bench>", "knight")
    tokens = clip.tokenize(plain)
    many = {name: sections * rows for name, sections in tokens.items()}
    runs = {
        "stock": lambda: clip.encode_from_tokens(tokens, return_pooled=True),
        "batch": lambda: clip.encode_from_tokens(many, return_pooled=True),
        "ours": lambda: ours.encode_from_tokens(ours.tokenize(PROMPT), return_pooled=True),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):  # the first warms up
        for name, run in runs.items():
            begun = clock(device)
            run()
            if number:
                times[name].append(clock(device) - begun)
    seconds = {name: statistics.median(own) for name, own in times.items()}
    return {
        **seconds,
        "over_stock": seconds["ours"] / seconds["stock"],
        "over_batch": seconds["ours"] / seconds["batch"],
    }


if __name__ == "__main__":
    main()
