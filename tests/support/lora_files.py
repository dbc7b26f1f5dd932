"""LoRA files as trainers write them, small: names by trainer, tensors by algorithm.

Modules are named as diffusers names them; `NAMES` writes such a name as a trainer does.
"""

from math import gcd

import torch

UNET = {  # diffusers name -> weight shape in the golden UNet (test_any_lora checks them)
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (32, 32),
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0": (32, 32),
    "up_blocks.3.attentions.1.transformer_blocks.0.ff.net.0.proj": (256, 32),
    "mid_block.attentions.0.proj_in": (32, 32, 1, 1),
}
TEXT = {
    "text_model.encoder.layers.0.self_attn.q_proj": (32, 32),
    "text_model.encoder.layers.1.mlp.fc1": (64, 32),
}
CONVOLUTIONS = {
    "mid_block.resnets.0.conv1": (32, 32, 3, 3),
    "down_blocks.1.downsamplers.0.conv": (32, 32, 3, 3),
}


def _processor(name: str) -> str:
    """As diffusers' attention processors were named: 'to_out.0' has no number there."""
    return name.replace(".to_", ".processor.to_").removesuffix(".0")


# Trainer -> (name of a UNet module, name of a text module, ends of down and up).
NAMES = {
    "kohya": ("lora_unet_{_}", "lora_te_{_}", (".lora_down.weight", ".lora_up.weight")),
    "kohya te1": ("lora_unet_{_}", "lora_te1_{_}", (".lora_down.weight", ".lora_up.weight")),
    "lycoris": ("lycoris_{_}", "lora_te_{_}", (".lora_down.weight", ".lora_up.weight")),
    "diffusers": ("unet.{p}", "text_encoder.{.}", ("_lora.down.weight", "_lora.up.weight")),
    "diffusers linear": (
        "unet.{p}",
        "text_encoder.{.}",
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ),
    "peft": ("unet.{.}", "text_encoder.{.}", (".lora_A.weight", ".lora_B.weight")),
    "peft default": (
        "unet.{.}",
        "text_encoder.{.}",
        (".lora_A.default.weight", ".lora_B.default.weight"),
    ),
    "peft saved": (
        "base_model.model.{.}",
        "text_encoder.{.}",
        (".lora_A.weight", ".lora_B.weight"),
    ),
    "ai-toolkit": ("diffusion_model.{c}", "text_encoder.{.}", (".lora_A.weight", ".lora_B.weight")),
    "simpletuner": ("unet.{p}", "text_encoder.{.}", (".lora.down.weight", ".lora.up.weight")),
    "diffusion-pipe": (
        "diffusion_model.{c}",
        "text_encoders.clip_l.transformer.{.}",
        (".lora_A.weight", ".lora_B.weight"),
    ),
    "onetrainer": ("lora_unet_{_}", "lora_te_{_}", (".lora_down.weight", ".lora_up.weight")),
    "own": ("unet.{.}", "text_encoder.{.}", (".lora_down.weight", ".lora_up.weight")),
}
KOHYA = ("kohya", "lycoris", "ai-toolkit")  # for algorithms that only these write


def module_name(trainer: str, module: str, comfy_names: dict[str, str], text: bool) -> str:
    """comfy_names: diffusers name -> ComfyUI's own path, below "diffusion_model."."""
    pattern = NAMES[trainer][1 if text else 0]
    for mark, written in (
        ("{_}", module.replace(".", "_")),
        ("{.}", module),
        ("{p}", _processor(module)),
        ("{c}", comfy_names.get(module, "")),
    ):
        pattern = pattern.replace(mark, written)
    return pattern


def random(*shape, seed=0, scale=0.1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * scale


def lora(shape, seed, ends=(".lora_down.weight", ".lora_up.weight"), rank=3, alpha=1.5):
    out, into, *kernel = shape
    ones = [1] * len(kernel)
    tensors = {
        ends[0]: random(rank, into, *kernel, seed=seed),
        ends[1]: random(out, rank, *ones, seed=seed + 1),
    }
    return tensors if alpha is None else {**tensors, ".alpha": torch.tensor(alpha)}


def tucker(shape, seed):
    out, into, *kernel = shape
    return {
        ".lora_down.weight": random(3, into, 1, 1, seed=seed),
        ".lora_mid.weight": random(3, 3, *kernel, seed=seed + 1),
        ".lora_up.weight": random(out, 3, 1, 1, seed=seed + 2),
        ".alpha": torch.tensor(2.0),
    }


def loha(shape, seed, rank=3):
    out, into = shape[0], int(torch.tensor(shape[1:]).prod())
    parts = ("w1_a", "w1_b", "w2_a", "w2_b")
    sizes = ((out, rank), (rank, into), (out, rank), (rank, into))
    tensors = {
        f".hada_{part}": random(*size, seed=seed + i, scale=0.3)
        for i, (part, size) in enumerate(zip(parts, sizes, strict=True))
    }
    return {**tensors, ".alpha": torch.tensor(1.0)}


def loha_tucker(shape, seed, rank=3):
    out, into, *kernel = shape
    tensors = {}
    for i, number in enumerate("12"):
        tensors[f".hada_t{number}"] = random(rank, rank, *kernel, seed=seed + 3 * i, scale=0.3)
        tensors[f".hada_w{number}_a"] = random(rank, out, seed=seed + 3 * i + 1, scale=0.3)
        tensors[f".hada_w{number}_b"] = random(rank, into, seed=seed + 3 * i + 2, scale=0.3)
    return {**tensors, ".alpha": torch.tensor(1.0)}


def lokr(shape, seed, whole=False):
    out, into, *kernel = shape
    rows, columns = gcd(4, out), gcd(4, into)
    tensors = {".lokr_w1": random(rows, columns, seed=seed), ".alpha": torch.tensor(1.0)}
    height, width = out // rows, into // columns
    if whole:
        return {**tensors, ".lokr_w2": random(height, width, *kernel, seed=seed + 1)}
    width *= int(torch.tensor(kernel or [1]).prod())
    return {
        **tensors,
        ".lokr_w2_a": random(height, 2, seed=seed + 1),
        ".lokr_w2_b": random(2, width, seed=seed + 2),
    }


def lokr_small(shape, seed):
    """Both factors decomposed."""
    out, into = shape[0], int(torch.tensor(shape[1:]).prod())
    sizes = {"w1_a": (4, 2), "w1_b": (2, 4), "w2_a": (out // 4, 2), "w2_b": (2, into // 4)}
    return {
        ".alpha": torch.tensor(1.0),
        **{f".lokr_{n}": random(*s, seed=seed + i) for i, (n, s) in enumerate(sizes.items())},
    }


def glora(shape, seed, rank=3):
    out, into, *kernel = shape
    sizes = {"a1": (into, rank), "a2": (rank, into), "b1": (out, rank), "b2": (rank, into, *kernel)}
    tensors = {f".{n}.weight": random(*s, seed=seed + i) for i, (n, s) in enumerate(sizes.items())}
    return {**tensors, ".alpha": torch.tensor(1.0)}


def dora(shape, seed, per="output"):
    out, into, *kernel = shape
    ones = [1] * len(kernel)
    size = (out, 1, *ones) if per == "output" else (1, into, *ones)
    return {**lora(shape, seed), ".dora_scale": random(*size, seed=seed + 5).abs() + 0.5}


def oft(shape, seed):
    return {".oft_blocks": random(shape[0] // 4, 4, 4, seed=seed), ".alpha": torch.tensor(0.0)}


def boft(shape, seed):
    return {".oft_blocks": random(2, shape[0] // 4, 4, 4, seed=seed), ".alpha": torch.tensor(0.0)}


ALGORITHMS = {
    "LoRA": lora,
    "LoRA without alpha": lambda shape, seed: lora(shape, seed, alpha=None),
    "LoRA and bias": lambda shape, seed: {**lora(shape, seed), ".diff_b": random(shape[0])},
    "LoHa": loha,
    "LoKr": lokr,
    "LoKr of whole factors": lambda shape, seed: lokr(shape, seed, whole=True),
    "LoKr of small factors": lokr_small,
    "GLoRA": glora,
    "DoRA": dora,
    "DoRA per input": lambda shape, seed: dora(shape, seed, per="input"),
    "OFT": oft,
    "BOFT": boft,
    "full": lambda shape, seed: {".diff": random(*shape, seed=seed)},
    "set": lambda shape, seed: {".set_weight": random(*shape, seed=seed)},
    "bias": lambda shape, seed: {".diff_b": random(shape[0], seed=seed)},
}
OF_CONVOLUTIONS = {
    **{name: make for name, make in ALGORITHMS.items() if name != "LoKr of small factors"},
    "LoCon with tucker": tucker,
    "LoHa with tucker": loha_tucker,
}


def make_file(trainer, algorithm, modules, comfy_names, text=False, seed=0):
    """{name: tensor} of a file that changes these modules."""
    tensors = {}
    make = OF_CONVOLUTIONS.get(algorithm) or ALGORITHMS[algorithm]
    for number, (module, shape) in enumerate(modules.items()):
        name = module_name(trainer, module, comfy_names, text)
        own = make(shape, seed + 10 * number)
        renamed = dict(
            zip((".lora_down.weight", ".lora_up.weight"), NAMES[trainer][2], strict=True)
        )
        tensors |= {name + renamed.get(end, end): tensor for end, tensor in own.items()}
    return tensors
