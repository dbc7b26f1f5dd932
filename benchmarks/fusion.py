"""Exact fusion against the published L-BFGS, on the same rows, at SD1.5's own sizes.

scripts/bench fusion [--concepts 4] [--share 0.1] [--columns 320 640 1280] [--ridge 0]

Rows are random features with a decaying spectrum (some directions vary a thousand times more than
others, as features of a UNet do), different for every concept, with random rank-4 deltas. A concept
gives as many rows as 20 steps at 512 px do, times --share (with fewer, L-BFGS gains: its time is
the rows'). Times are of one layer from the rows on, on the CPU processor time: `exact` sums and
solves; `lbfgs` is PyTorch's optimiser on the rows, as the public code runs it (50 steps, history
25, strong Wolfe); `lbfgs_on_sums` is this pack's. `memory`: the largest number of bytes that
collecting and solving a self-attention's layers has in use, for 2 and for 14 concepts.
"""

import argparse
import json
import time

import comfy.model_management
import torch
from _live_bytes import LiveBytes

from mix_of_show.mos_core.families.family import OTHERS
from mix_of_show.mos_core.fuse.settings import FuseSettings
from mix_of_show.mos_core.fuse.solve import (
    LBFGS_HISTORY,
    LBFGS_STEPS_SPATIAL,
    SolveOptions,
    solve_exact,
    solve_lbfgs,
)
from mix_of_show.mos_core.fuse.stage import Layer, StageSums
from mix_of_show.mos_core.fuse.sums import Gram, LayerSums
from mix_of_show.mos_core.records import LowRank, Site

STEPS = 20
PIXELS = {320: 64 * 64, 640: 32 * 32, 1280: 16 * 16}  # of the feature maps at 512 px, by columns


def make_rows(columns: int, rows: int, concepts: int, device) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(columns)
    spectrum = torch.logspace(0, -3, columns)
    made = []
    for _ in range(concepts):
        basis = torch.linalg.qr(torch.randn(columns, columns, generator=generator))[0]
        values = torch.randn(rows, columns, generator=generator) * spectrum
        made.append((values @ basis.T).to(device))
    return made


def make_pairs(columns: int, concepts: int, device) -> list[LowRank]:
    generator = torch.Generator().manual_seed(columns + 1)
    pairs = torch.randn(concepts, 2, columns, 4, generator=generator) * columns**-0.5
    return [LowRank(down.T.to(device), up.to(device)) for up, down in pairs]


def published_lbfgs(rows, targets, columns: int) -> torch.Tensor:
    """mse of the rows against their targets, minimised from zero change."""
    x, y = torch.cat(rows), torch.cat(targets)
    delta = torch.zeros(columns, columns, device=x.device, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [delta],
        lr=1,
        max_iter=LBFGS_STEPS_SPATIAL,
        history_size=LBFGS_HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-16,
        tolerance_change=1e-16,
    )

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(x @ delta.T, y)
        loss.backward()
        return loss

    optimizer.step(closure)
    return delta.detach()


def clocked(work):
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    synchronise()
    begun = clock()
    result = work()
    synchronise()
    return result, clock() - begun


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def collect(rows, pairs, columns: int, device) -> LayerSums:
    sums = LayerSums.empty(columns, columns, device)
    for x, pair in zip(rows, pairs, strict=True):
        gram = Gram(x.dtype)
        gram.add(x)
        sums.add(gram, pair)
    return sums


def peak_bytes(columns: int, concepts: int, device) -> int:
    """Of collecting and solving to_q, to_k and to_v of one self-attention, rows not counted."""
    shape = columns, columns
    layers = [Layer(Site(f"to_{name}.weight"), "qkv", shape, OTHERS) for name in "qkv"]
    rows = torch.randn(columns, columns, device=device)
    down, up = (torch.randn(shape, device=device) for shape in ((4, columns), (columns, 4)))
    deltas = {layer.site: LowRank(down, up) for layer in layers}
    with LiveBytes() as memory:
        stage = StageSums(layers, torch.float32)
        for _ in range(concepts):
            grams = stage.new_grams()
            for gram in grams.values():
                gram.add(rows)
            stage.add_concept(grams, deltas)
        for layer in layers:
            stage.solve(layer, FuseSettings(ridge=0.02))
    return memory.peak


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--concepts", type=int, default=4)
    parser.add_argument("--share", type=float, default=1.0, help="of the rows of 20 steps, 512 px")
    parser.add_argument("--columns", type=int, nargs="+", default=[320, 640, 1280])
    parser.add_argument("--ridge", type=float, default=0.0)
    args = parser.parse_args()
    device = comfy.model_management.get_torch_device()
    layers = []
    for columns in args.columns:
        count = int(args.share * STEPS * PIXELS.get(columns, 4096))
        rows = make_rows(columns, count, args.concepts, device)
        pairs = make_pairs(columns, args.concepts, device)
        targets = [x @ pair.matrix().T for x, pair in zip(rows, pairs, strict=True)]

        def loss(delta, rows=rows, targets=targets):
            errors = [
                (x.double() @ delta.double().T - y.double()).square().mean()
                for x, y in zip(rows, targets, strict=True)
            ]
            return (sum(errors) / len(errors)).item()

        sums, summing = clocked(lambda: collect(rows, pairs, columns, device))  # noqa: B023
        options = SolveOptions(args.ridge, LBFGS_STEPS_SPATIAL)
        exact, solving = clocked(lambda: solve_exact(sums, (), options).delta)  # noqa: B023
        on_sums, sums_seconds = clocked(lambda: solve_lbfgs(sums, (), options).delta)  # noqa: B023
        published, seconds = clocked(lambda: published_lbfgs(rows, targets, columns))  # noqa: B023
        layers.append(
            {
                "columns": columns,
                "memory": {n: peak_bytes(columns, n, device) for n in (2, 14)},
                "rows_per_concept": count,
                "loss_before": loss(torch.zeros_like(published)),
                "loss_exact": loss(exact),
                "loss_lbfgs": loss(published),
                "loss_lbfgs_on_sums": loss(on_sums),
                "seconds_exact": summing + solving,
                "seconds_solving": solving,
                "seconds_lbfgs": seconds,
                "seconds_lbfgs_on_sums": sums_seconds,
                "times_faster": seconds / (summing + solving),
            }
        )
    result = {"benchmark": "fusion", **vars(args), "device": str(device), "layers": layers}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
