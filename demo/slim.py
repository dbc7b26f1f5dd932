"""Cut LoRA files down to a size: of all layers' singular values the largest for their bytes stay.

    python demo/slim.py FILE ... --bytes 670000

A layer's product of factors is taken apart into singular values; those of all layers are ranked by
square per byte (a wide layer's cost more), and as many are kept as the size allows. Factors are
written so that they need no alpha; a layer of which nothing is kept is left out. Everything else in
the file stays. Prints the share of the squares that is kept.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parent.parent))
from mos_core.adapters import ALPHA, DOWN, UP
from mos_core.deltas import LowRank, svd_of_product

PER_TENSOR = 145  # bytes in a file's header, about


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--bytes", type=int, default=670_000)
    return parser.parse_args()


def slim(tensors: dict[str, torch.Tensor], size: int) -> tuple[dict[str, torch.Tensor], float, int]:
    """-> the tensors that are kept, the share of the squares, the largest rank."""
    modules = {key.removesuffix(DOWN) for key in tensors if key.endswith(DOWN)}
    kept = {k: t for k, t in tensors.items() if not k.endswith((DOWN, UP, ALPHA))}
    parts, values = {}, []
    for name in sorted(modules):
        down = tensors[name + DOWN].flatten(1).float()  # a convolution's with its kernel
        up = tensors[name + UP].flatten(1).float()
        alpha = float(tensors[name + ALPHA]) if name + ALPHA in tensors else len(down)
        parts[name] = svd_of_product(LowRank(down * (alpha / len(down)), up))
        cost = 2 * (len(up) + down.shape[1])
        values += [(float(one**2) / cost, name, cost) for one in parts[name][1]]
    left = size - sum(t.numel() * t.element_size() + PER_TENSOR for t in kept.values())
    ranks = dict.fromkeys(parts, 0)
    for _, name, cost in sorted(values, reverse=True):
        cost += 0 if ranks[name] else 2 * PER_TENSOR
        if cost <= left:
            left -= cost
            ranks[name] += 1
    for name, rank in ranks.items():
        if rank:
            u, s, v = parts[name]
            root = s[:rank].sqrt()
            down = (root[:, None] * v[:rank]).unflatten(1, tensors[name + DOWN].shape[1:])
            up = (u[:, :rank] * root).view(-1, rank, *tensors[name + UP].shape[2:])
            kept[name + DOWN], kept[name + UP] = down.half().contiguous(), up.half().contiguous()
    total = sum(float((s**2).sum()) for _, s, _ in parts.values())
    stays = sum(float((s[: ranks[name]] ** 2).sum()) for name, (_, s, _) in parts.items())
    return kept, stays / total, max(ranks.values(), default=0)


def main() -> None:
    arguments = read_arguments()
    for file in arguments.files:
        with safe_open(file, "pt") as opened:
            metadata = dict(opened.metadata())
            tensors = {key: opened.get_tensor(key) for key in opened.keys()}
        tensors, share, rank = slim(tensors, arguments.bytes)
        for key in ("rank", "ss_network_dim", "ss_network_alpha"):
            if key in metadata:
                metadata[key] = str(rank)
        if "training" in metadata:
            metadata["training"] = json.dumps({**json.loads(metadata["training"]), "cut": share})
        part = file.with_suffix(".part")
        save_file(tensors, part, metadata)
        os.replace(part, file)
        print(f"{file.name}: {file.stat().st_size} bytes, {share:.1%} of the squares")


if __name__ == "__main__":
    main()
