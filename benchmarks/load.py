"""Loading an ED-LoRA and encoding a prompt, and sampling, each against stock ComfyUI (ratios, one
run).

scripts/bench load [--channels 128] [--size 192] [--steps 2] [--pairs 7] [--dtype fp32]

Encode: read the file (a .pth as the papers' code writes it, and our .safetensors), Apply Concepts
on MODEL and CLIP, encode the prompt, weights merged on the way; against 16 stock encodings of that
prompt in one batch by the already loaded CLIP. The issue allows 1.5.
Sample: the stock KSampler with our MODEL and wide text; against the stock MODEL and narrow text,
both already loaded. The issue allows 1.02.
LoRA (--lora): an ordinary LoRA of the given rank on all linear layers, in float16, of about 200 MB
at full width and rank 256: read and put on MODEL and CLIP, and until the weights are merged;
against ComfyUI's Load LoRA. At most 1.2 is wanted.
Runs of both kinds take turns; a ratio is the median of the ratios of neighbours. On the CPU: one
thread, and the processor time of this process, so that other programs do not decide the result.
"""

import argparse
import functools
import json
import statistics
import tempfile
import time
from pathlib import Path

import comfy.model_management
import comfy.samplers
import comfy.sd
import comfy.utils
import safetensors.torch
import torch
from _models import random_clip, random_sd15

import nodes
from mix_of_show.mos_core.families.unet import SD15, comfy_unet_key
from mix_of_show.mos_core.formats import read_concept, save_concept
from mix_of_show.mos_core.formats.parts import build_concept
from mix_of_show.mos_core.patch.apply import apply_concepts
from mix_of_show.mos_core.patch.host.read import read_any
from mix_of_show.mos_core.records import LowRank, WeightedConcept

RANK, TEXT_WIDTH, TEXT_LAYERS = 4, 768, 12
TOKENS = ("<potter1>", "<potter2>")
PROMPT = "photo of a {}, standing near a lake, 4K, high quality, high resolution"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=int, default=128, help="320 is SD1.5")
    parser.add_argument("--size", type=int, default=192, help="pixels")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=7, help="measured pairs of runs, each kind")
    parser.add_argument("--lora", action="store_true", help="an ordinary LoRA alone")
    parser.add_argument("--rank", type=int, default=256, help="of that LoRA")
    parser.add_argument("--dtype", default="fp32", choices=list(DTYPES))
    return parser.parse_args()


def clock() -> float:
    if not torch.cuda.is_available():
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def seconds(run) -> float:
    begin = clock()
    run()
    return clock() - begin


def compare(ours, stock, pairs: int, before_ours, before_stock) -> dict:
    """Times of both in turn, after one round that does not count."""
    times = []
    for _ in range(pairs + 1):
        before_ours()
        a = seconds(ours)
        before_stock()
        times.append((a, seconds(stock)))
    ratios = [a / b for a, b in times[1:]]
    return {
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(r, 3) for r in ratios],
        "ours_s": round(statistics.median(a for a, _ in times[1:]), 4),
        "stock_s": round(statistics.median(b for _, b in times[1:]), 4),
    }


def make_concept(model):
    """An ED-LoRA as the papers' settings give it: rank 4 on all attention of UNet and text."""
    generator = torch.Generator().manual_seed(0)

    def pair(out, into):
        down = torch.randn(RANK, into, generator=generator)
        return LowRank(down * 0.01, torch.randn(out, RANK, generator=generator) * 0.01)

    def flat(pairs):
        keys = (("lora_down", "down"), ("lora_up", "up"))
        return {f"{m}.{k}.weight": getattr(p, half) for m, p in pairs.items() for k, half in keys}

    text = {
        f"text_model.encoder.layers.{i}.self_attn.{m}_proj": pair(TEXT_WIDTH, TEXT_WIDTH)
        for i in range(TEXT_LAYERS)
        for m in ("q", "k", "v", "out")
    }
    unet = {}
    for layer in SD15.layers:
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            for attention in ("attn1", "attn2"):
                module = f"{layer.diffusers}.transformer_blocks.0.{attention}.{part}"
                weight = comfy.utils.get_attr(model.model, comfy_unet_key(module, SD15))
                unet[module] = pair(*weight.shape)
    tables = {
        t: torch.randn(len(SD15.layers), TEXT_WIDTH, generator=generator) * 0.02 for t in TOKENS
    }
    return build_concept("potter", tables, flat(text), flat(unet))


def write_lora(model, path: Path, rank: int) -> None:
    """An ordinary LoRA in kohya's layout, on all linear layers of the UNet."""
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, module in model.model.diffusion_model.named_modules():
        if isinstance(module, torch.nn.Linear) and ".transformer_blocks." in name:
            own = f"lora_unet_{name.replace('.', '_')}"
            down = torch.randn(rank, module.in_features, generator=generator) * 0.01
            up = torch.randn(module.out_features, rank, generator=generator) * 0.01
            tensors |= {f"{own}.lora_down.weight": down.half(), f"{own}.lora_up.weight": up.half()}
            tensors[f"{own}.alpha"] = torch.tensor(float(rank))
    safetensors.torch.save_file(tensors, path)


def measure_lora(model, clip, path: Path, pairs: int) -> dict:
    """Reading and applying alone, and with the weights merged."""

    def ours(merged: bool):
        patched, _ = apply_concepts(model, clip, (WeightedConcept(read_any(path)),))
        if merged:
            load(patched)

    def stock(merged: bool):
        lora = comfy.utils.load_torch_file(str(path), safe_load=True)
        patched, _ = comfy.sd.load_lora_for_models(model, clip, lora, 1.0, 1.0)
        if merged:
            load(patched)

    def plain():
        load(model)

    return {
        name: compare(
            functools.partial(ours, merged), functools.partial(stock, merged), pairs, plain, plain
        )
        for name, merged in (("read", False), ("merged", True))
    }


def load(*patchers):
    comfy.model_management.load_models_gpu(list(patchers))


def measure_encoding(model, clip, path, pairs: int) -> dict:
    prompt = PROMPT.format(" ".join(TOKENS))
    chunks = clip.tokenize(PROMPT.format("man person"))["l"]
    assert len(chunks) == 1

    def ours():
        entry = WeightedConcept(read_concept(path), 1.0, 1.0)
        _, knowing = apply_concepts(model, clip, (entry,))
        ((wide, _),) = nodes.CLIPTextEncode().encode(knowing, prompt)[0]
        assert wide.shape == (1, 77, len(SD15.layers) * TEXT_WIDTH)

    def stock():
        clip.encode_from_tokens({"l": chunks * len(SD15.layers)})

    def stock_loaded():
        load(clip.patcher)

    return compare(ours, stock, pairs, stock_loaded, stock_loaded)


def measure_sampling(model, clip, concept, settings) -> dict:
    patched, knowing = apply_concepts(model, clip, (WeightedConcept(concept, 1.0, 1.0),))
    runs = {}
    for name, m, c in (("ours", patched, knowing), ("stock", model, clip)):
        words = " ".join(TOKENS) if name == "ours" else "man person"
        texts = [nodes.CLIPTextEncode().encode(c, p)[0] for p in (PROMPT.format(words), "lowres")]
        runs[name] = lambda m=m, texts=texts: sample(m, *texts, settings)
    return compare(
        runs["ours"],
        runs["stock"],
        settings.pairs,
        lambda: load(patched),
        lambda: load(model),
    )


def sample(model, positive, negative, settings):
    latent = {"samples": torch.zeros(1, 4, settings.size // 8, settings.size // 8)}
    nodes.KSampler().sample(
        model, 0, settings.steps, 7.5, "euler", "normal", positive, negative, latent
    )


@torch.inference_mode()
def main():
    settings = arguments()
    comfy.utils.set_progress_bar_enabled(False)
    if not torch.cuda.is_available():
        torch.set_num_threads(1)
    dtype = DTYPES[settings.dtype]
    clip, model = random_clip(dtype), random_sd15(settings.channels, TEXT_WIDTH, dtype)
    if settings.lora:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "lora.safetensors"
            write_lora(model, path, settings.rank)
            result = {"benchmark": "load", "settings": vars(settings), "lora_limit": 1.2}
            result["lora_mb"] = round(path.stat().st_size / 1e6, 1)
            result |= measure_lora(model, clip, path, settings.pairs)
            print(json.dumps({**result, "lora_ratio": result["merged"]["ratio"]}))
        return
    concept = make_concept(model)
    result = {
        "benchmark": "load",
        "device": str(comfy.model_management.get_torch_device()),
        "threads": torch.get_num_threads(),
        "settings": vars(settings),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, layout in (("pth", "reference pth"), ("safetensors", "safetensors")):
            path = save_concept(concept, Path(folder), "potter", layout)
            result[f"encode_{name}"] = measure_encoding(model, clip, path, settings.pairs)
            print(f"encode ({name}):", result[f"encode_{name}"], flush=True)
    result["sample"] = measure_sampling(model, clip, concept, settings)
    worst = max(result["encode_pth"]["ratio"], result["encode_safetensors"]["ratio"])
    result |= {"encode_ratio": worst, "encode_limit": 1.5}
    result |= {"sample_ratio": result["sample"]["ratio"], "sample_limit": 1.02}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
