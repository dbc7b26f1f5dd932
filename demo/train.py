"""Train model and text encoders of a miniature world on a cache of latents. Can be stopped and
resumed at any time.

    COMFYUI_PATH=... python demo/train.py --cache cache.safetensors --vae vae.safetensors --state
    state.pt --minutes 60

It begins with the `--state` file if there is one, else with the weights of the miniature checkpoint
`--start` (the one that ships, say), else with random weights.
Every `--sheet-minutes` it writes a contact sheet and `--out`, a checkpoint of the averaged weights.
On a CPU `--workers` processes of one thread each train the same shared weights without waiting for
each other
(Hogwild, Recht et al. 2011): on a machine that others use too, threads that wait for each other
lose most of the time.
"""

import argparse
import copy
import logging
import os
import time

import graphs
import torch
from families import FAMILIES
from muon import optimizers_for
from safetensors.torch import load_file
from schedule import rate_at
from start_comfy import start_comfy

LATE = 0.65  # of the time, from when on the batch is larger


class Cache:
    """Latents and captions: `<shape>.latents` (n, c, h, w) fp16, `<shape>.ids` (n, tokens),
    `empty` (tokens,); `short`: numbers of tokens that may do"""

    def __init__(self, path: str, device: str, short: tuple[int, ...]):
        tensors, self.short = load_file(path), short
        self.empty, self.device = tensors.pop("empty").long().to(device), device
        self.alone = tensors["square.alone"].long()
        self.shapes = {
            name: (tensors[f"{name}.latents"].to(device), tensors[f"{name}.ids"].to(device))
            for name in ("square", "wide")
        }
        self.lengths = {name: self._lengths(tensors[f"{name}.ids"]) for name in self.shapes}
        self.ids = torch.cat(
            [
                self.empty[None],
                *(pair[1].long() for pair in self.shapes.values()),
                tensors["extra_ids"].long().to(device),
            ]
        ).unique(dim=0)

    def _lengths(self, ids: torch.Tensor) -> torch.Tensor:
        """(n, tokens) -> (n,): the first of `short` that leaves out nothing but padding"""
        lengths = torch.full((len(ids),), ids.shape[1])
        for n in sorted(self.short, reverse=True):
            lengths[ids[:, n - 1] == ids[:, -1]] = n
        return lengths

    def crops(self, size: int, drop: float):
        """Batch of 8 x 8 windows around characters that stand alone: a fifth of the work."""
        chosen = self.alone[torch.randint(len(self.alone), (size,))]
        x, y = int(torch.randint(3, 6, ())), int(torch.randint(4, 6, ()))
        latents, ids = self._chosen("square", chosen, drop, True)
        return latents[:, :, y : y + 8, x : x + 8], ids

    def batch(self, name: str, size: int, drop: float, short: bool):
        """-> latents (b, c, h, w) float, ids (b, n); `short`: without most of the padding"""
        chosen = torch.randint(len(self.lengths[name]), (size,))
        return self._chosen(name, chosen, drop, short)

    def _chosen(self, name: str, chosen: torch.Tensor, drop: float, short: bool):
        """Those of a batch, a share `drop` with the empty text. Nothing waits for a GPU here."""
        latents, ids = self.shapes[name]
        rows = chosen.to(self.device)
        dropped = (torch.rand(len(chosen), 1) < drop).to(self.device)
        captions = torch.where(dropped, self.empty, ids[rows].long())
        n = int(self.lengths[name][chosen].max()) if short else None
        return latents[rows].float(), captions[:, :n]


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--cache", "--vae", "--state", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--sheets", default="sheets", help="folder for the contact sheets")
    parser.add_argument("--start", help="miniature checkpoint whose weights to begin with")
    parser.add_argument("--family", choices=list(FAMILIES), default="sd15")
    parser.add_argument("--size", default="small", help="of the family's sizes in networks*.py")
    parser.add_argument(
        "--minutes",
        type=float,
        default=60,
        help="of all runs together; the rate falls to zero until then",
    )
    parser.add_argument("--sheet-minutes", type=float, default=8)
    parser.add_argument("--lr", type=float, default=1.2e-3)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument(
        "--wide-share",
        type=float,
        default=0.2,
        help="share of steps on wide pictures (of a third of the batch)",
    )
    parser.add_argument(
        "--crop-minutes", type=float, default=0, help="begin with small crops until then"
    )
    parser.add_argument("--crop-share", type=float, default=0.3, help="share of crops after that")
    parser.add_argument(
        "--layout",
        type=float,
        default=1.0,
        help="above 1: more of what decides places",
    )
    parser.add_argument(
        "--times",
        type=float,
        default=0.65,
        help="below 1: noise levels oftener where shapes are decided; 1: all alike, for details",
    )
    parser.add_argument(
        "--late-batch", type=float, default=1, help="how much larger the batch is at the end"
    )
    parser.add_argument("--drop", type=float, default=0.1)
    parser.add_argument(
        "--short-text", type=float, default=0.7, help="share of the time with 32 tokens"
    )
    parser.add_argument(
        "--own-pooled", type=float, default=0.1, help="Flux: share that has its own pooled text"
    )
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument(
        "--muon", action="store_true", help="Muon for the kernels (muon.py) in place of AdamW"
    )
    parser.add_argument("--fp32", action="store_true")
    parser.add_argument(
        "--graphs", action="store_true", help="on a GPU: the network as CUDA graphs"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, on a CPU")
    parser.add_argument(
        "--threads", type=int, default=0, help="of each worker; 1 with more than one worker"
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    start_comfy(1 if args.workers > 1 else args.threads)
    import export  # after ComfyUI, which it uses

    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")  # TF32 on a GPU
    family = FAMILIES[args.family]
    cache, config = Cache(args.cache, device, family.short), family.sizes[args.size]
    model, text = (network.to(device) for network in family.networks(config, cache.ids))
    trained = [*model.parameters(), *text.parameters()]
    optimizers = (
        optimizers_for(trained, args.lr, dtype=torch.float32 if args.fp32 else torch.bfloat16)
        if args.muon
        else [
            torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        ]
    )
    averaged = [p.detach().clone() for p in trained]
    step, seen, minutes = 0, 0, 0.0
    if os.path.exists(args.state):
        state = torch.load(args.state, map_location=device, weights_only=True)
        for p, a, new, new_average in zip(
            trained, averaged, state["weights"], state["averaged"], strict=True
        ):
            p.data.copy_(new)
            a.copy_(new_average)
        stored = state["optimizer"]
        stored = stored if isinstance(stored, list) else [stored]
        for optimizer, its in zip(optimizers, stored, strict=True):
            optimizer.load_state_dict(its)
        step, seen, minutes = state["step"], state["seen"], state["minutes"]
    elif args.start:
        family.read(args.start, model, text)
        for p, a in zip(trained, averaged, strict=True):
            a.copy_(p.detach())
    logging.info(
        "%.2f M + %.2f M parameters",
        sum(p.numel() for p in model.parameters()) / 1e6,
        sum(p.numel() for p in text.parameters()) / 1e6,
    )

    def save():
        torch.save(
            {
                "weights": [p.detach() for p in trained],
                "averaged": averaged,
                "optimizer": [optimizer.state_dict() for optimizer in optimizers],
                "step": int(counts[0]),
                "seen": int(counts[1]),
                "minutes": counts[2].item(),
            },
            args.state + ".part",
        )
        os.replace(args.state + ".part", args.state)
        shown, shown_text = copy.deepcopy(model), copy.deepcopy(text)
        for p, a in zip([*shown.parameters(), *shown_text.parameters()], averaged, strict=True):
            p.data = a.clone()
        export.write_checkpoint(
            args.out,
            family,
            config,
            shown,
            shown_text,
            args.vae,
            {"pictures_seen": int(counts[1]), "steps": int(counts[0])},
        )
        export.write_contact_sheet(
            args.sheets, f"{int(counts[2]):03d}", family, shown, shown_text, args.vae, cache.empty
        )

    counts = torch.tensor([float(step), float(seen), minutes]).double().share_memory_()
    for worker in range(1, args.workers):
        for p in trained:
            p.data.share_memory_()
        torch.multiprocessing.get_context("fork").Process(
            target=run,
            daemon=True,
            args=(args, worker, model, trained, text, cache, optimizers, counts, averaged, None),
        ).start()
    network = graphs.Graphed(model, not args.fp32) if args.graphs else model
    run(args, 0, network, trained, text, cache, optimizers, counts, averaged, save)


def next_batch(cache: Cache, args, minutes: float):
    """Small crops at first and now and then; else square pictures and fewer wide ones."""
    batch = int(args.batch * (args.late_batch if minutes > LATE * args.minutes else 1))
    if minutes < args.crop_minutes or torch.rand(()).item() < args.crop_share:
        return cache.crops(2 * batch, args.drop)
    wide = torch.rand(()).item() < args.wide_share
    size = batch // 3 if wide else batch
    short = minutes < args.short_text * args.minutes
    return cache.batch("wide" if wide else "square", size, args.drop, short)


def run(args, worker, model, trained, text, cache, optimizers, counts, averaged, save) -> None:
    """One worker's training loop. `counts` (shared): steps, pictures, minutes. Worker 0 averages,
    logs and saves."""
    torch.manual_seed(args.seed + 7919 * worker + int(counts[0]))
    family, own = FAMILIES[args.family], 0
    recent = torch.zeros((), device=cache.device)  # read seldom: whoever reads, waits for the GPU
    clock, next_sheet, logged = (
        time.time(),
        counts[2].item() + min(4.0, args.sheet_minutes),
        (time.time(), counts[1].item()),
    )
    while (minutes := counts[2].item()) < args.minutes:
        rate = rate_at(minutes / args.minutes, counts[0].item(), args.lr)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
        latents, ids = next_batch(cache, args, minutes)
        loss = family.loss(model, text, latents, ids, args)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        for optimizer in optimizers:
            optimizer.step()
        counts[0] += 1
        counts[1] += len(latents)
        own, recent = own + 1, recent + loss.detach()
        if worker:
            continue
        torch._foreach_lerp_(
            averaged, [p.detach() for p in trained], 1 - min(args.ema, own / (own + 10))
        )
        counts[2] += (time.time() - clock) / 60
        clock = time.time()
        if own % 100 == 0:
            logging.info(
                "%.1f min, step %d, pictures %d (%.1f/s), loss %.4f, rate %.2g",
                minutes,
                counts[0],
                counts[1],
                (counts[1].item() - logged[1]) / (time.time() - logged[0]),
                recent.item() / 100,
                rate,
            )
            if not recent.isfinite():
                raise SystemExit("the loss is no number any more")
            recent.zero_()
            logged = (time.time(), counts[1].item())
        if minutes >= next_sheet:
            save()
            next_sheet, clock = counts[2].item() + args.sheet_minutes, time.time()
    if save:
        save()


if __name__ == "__main__":
    main()
