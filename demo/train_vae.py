"""Train a VAE of the miniature world: ComfyUI's TAESD shape (f8), latents of about unit variance.

    COMFYUI_PATH=... python demo/train_vae.py --sprites sprites.npz --out vae.safetensors --minutes
    36 [--start demo/models/miniature.safetensors] [--channels 16]

`--channels 4` (Stable Diffusion's scaling) or 16 (Flux's). With `--start` the new latents are held
near those of the VAE in that checkpoint (`--anchor`), so that a model trained on the old ones needs
little to follow. It can be stopped and started again: it goes on from `<out>.state`.
Held-out characters are in these pictures too: an autoencoder does not learn names, and ComfyUI
users train concepts on VAEs that have seen everything as well.
"""

import argparse
import logging
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from compose import read_sprites
from crops import make_crops
from muon import optimizers_for
from safetensors.torch import save_file
from schedule import rate_at
from start_comfy import start_comfy
from vae import HALVES, IDLE, decode, encode, new_vae, read_vae, wake

SECONDS_TO_SAVE = 180
MEASURED = 5  # every so manieth save
HELD_OUT = 10**6  # seed of the pictures that are measured


def edges(x: torch.Tensor) -> torch.Tensor:
    """Differences of neighbours, (b, n)."""
    return torch.cat(
        [(x[..., 1:, :] - x[..., :-1, :]).flatten(1), (x[..., 1:] - x[..., :-1]).flatten(1)], 1
    )


def picture_loss(y: torch.Tensor, x: torch.Tensor, squares: float = 4) -> torch.Tensor:
    """Pixels (L1, and squares by `squares`) and edges, at full and at half size."""
    loss = (y - x).abs().mean() + squares * F.mse_loss(y, x) + (edges(y) - edges(x)).abs().mean()
    y, x = F.avg_pool2d(y, 2), F.avg_pool2d(x, 2)
    return loss + 0.5 * ((y - x).abs().mean() + (edges(y) - edges(x)).abs().mean())


def parser_for(text: str) -> argparse.ArgumentParser:
    """What every training of a VAE is asked; `text` is the script's description."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--start", help="miniature checkpoint to begin with")
    parser.add_argument("--minutes", type=float, default=36, help="of all runs together")
    parser.add_argument("--size", type=int, default=128, help="height of the pictures")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--noise", type=float, default=0.1, help="highest, on the latents")
    parser.add_argument(
        "--ema", type=float, default=0.99, help="1 - share of a step in the average"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes, on a CPU")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fp32", action="store_true")
    return parser


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__)
    parser.add_argument("--channels", type=int, choices=[4, 16], default=4)
    parser.add_argument("--anchor", type=float, default=0.03, help="pull towards `--start`")
    parser.add_argument("--squares", type=float, default=4, help="weight of the squared error")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--crops", type=int, default=12000)
    return parser.parse_args()


def to_batch(crops: torch.Tensor, device: str) -> torch.Tensor:
    """(b, 3, h, w) uint8 -> float in 0..1, channels last in memory"""
    x = crops.to(device).float().div(255)
    return x.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(vae, crops: torch.Tensor, device: str) -> float:
    """dB over all pixels of the crops, through encoder and decoder, in bf16."""
    errors = []
    for part in crops.split(50):
        x = to_batch(part, device)
        with torch.autocast(device, torch.bfloat16):
            y = decode(vae, encode(vae, x))
        errors.append(F.mse_loss(y.float().clamp(0, 1), x).item())
    return -10 * float(np.log10(np.mean(errors)))


class Training:
    """What the processes share: weights, pictures, counts; each has its own optimizer."""

    halves = HALVES  # of the VAE, that are trained

    def __init__(self, args: argparse.Namespace, vae: torch.nn.Module):
        self.args, self.device = args, "cuda" if torch.cuda.is_available() else "cpu"
        wake(vae, self.halves)
        self.vae = vae.to(self.device, memory_format=torch.channels_last)
        self.prepare()
        self.trained = [p for n, p in self.vae.named_parameters() if self.is_trained(n)]
        self.averaged = [p.detach().clone() for p in self.trained]
        self.counts = torch.zeros(3).double().share_memory_()  # steps, crops, minutes
        if os.path.exists(args.out + ".state"):
            self.resume(torch.load(args.out + ".state", weights_only=True))
        logging.info("begins with %.2f dB on held-out crops", self.held_out_psnr(self.vae))

    def prepare(self) -> None:
        """Composes the pictures."""
        args, sprites = self.args, read_sprites(self.args.sprites)
        self.old = read_vae(args.start).to(self.device) if args.start else None
        self.crops = make_crops(sprites, args.crops, args.crop, args.size, args.seed)
        self.held_out = make_crops(sprites, 500, args.crop, args.size, HELD_OUT, centred=1.0)

    def is_trained(self, name: str) -> bool:
        return name.startswith(self.halves) and not name.startswith(IDLE)

    def resume(self, state: dict) -> None:
        for p, a, new, average in zip(
            self.trained, self.averaged, state["weights"], state["averaged"], strict=True
        ):
            p.data.copy_(new)
            a.copy_(average)
        self.counts.copy_(state["counts"])

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss of a batch, and the mean squared error of its pictures."""
        args = self.args
        x = to_batch(self.crops[torch.randint(len(self.crops), (args.batch,))], self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=not args.fp32):
            z = encode(self.vae, x)
            y = decode(self.vae, self.noisy(z)).float()
            if self.old is not None:
                with torch.no_grad():
                    old = encode(self.old, x).float()
        loss, z = picture_loss(y, x, args.squares), z.float()
        if self.old is not None:
            loss = loss + args.anchor * F.mse_loss(z, old)
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        unit = mean.square().mean() + (std - 1).square().mean()
        return loss + 0.02 * unit, F.mse_loss(y.detach().clamp(0, 1), x)

    def noisy(self, z: torch.Tensor) -> torch.Tensor:
        return z + self.args.noise * torch.rand(()) * torch.randn_like(z)

    def held_out_psnr(self, vae) -> float:
        return psnr(vae, self.held_out, self.device)

    def run(self, worker: int) -> None:
        args, counts = self.args, self.counts
        torch.manual_seed(args.seed + 7919 * worker + int(counts[0]))
        optimizers = optimizers_for(self.trained, args.lr, decay=1e-3)
        clock, saved, sums, own, saves = time.time(), time.time(), 0.0, 0, 0
        while counts[2] < args.minutes:
            rate = rate_at(counts[2].item() / args.minutes, own, args.lr, 60)
            for group in (g for o in optimizers for g in o.param_groups):
                group["lr"] = rate
            loss, mse = self.step()
            for p in self.trained:
                p.grad = None
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            counts[0] += 1
            counts[1] += args.batch
            own, sums = own + 1, sums + mse.item()
            if worker:
                continue
            share = 1 - min(self.args.ema, own / (own + 10))
            torch._foreach_lerp_(self.averaged, [p.detach() for p in self.trained], share)
            counts[2] += (time.time() - clock) / 60
            clock = time.time()
            if own % 50 == 0:
                self.log(loss.item(), sums / 50, rate)
                sums = 0.0
            if time.time() - saved > SECONDS_TO_SAVE:
                saves += 1
                self.save(measured=saves % MEASURED == 0)
                saved = time.time()
        if not worker:
            self.save(measured=True)

    def log(self, loss: float, mse: float, rate: float) -> None:
        steps, crops, minutes = self.counts.tolist()
        text = "%.1f min, step %d, crops %d, loss %.4f, training %.2f dB, rate %.2g"
        logging.info(text, minutes, steps, crops, loss, -10 * np.log10(mse), rate)

    def save(self, measured: bool) -> None:
        """Writes `<out>.state` and, of the averaged weights, `<out>`; measures those if wanted."""
        state = {"weights": [p.detach() for p in self.trained], "averaged": self.averaged}
        torch.save({**state, "counts": self.counts.clone()}, self.args.out + ".part")
        os.replace(self.args.out + ".part", self.args.out + ".state")
        names = [n for n, _ in self.vae.named_parameters() if self.is_trained(n)]
        tensors = {**self.vae.state_dict(), **dict(zip(names, self.averaged, strict=True))}
        tensors = {k: v.detach().float().cpu().contiguous() for k, v in tensors.items()}
        save_file(tensors, self.args.out + ".part")
        os.replace(self.args.out + ".part", self.args.out)
        if measured:
            shown = read_vae(self.args.out).to(self.device, memory_format=torch.channels_last)
            logging.info("averaged, held-out crops: %.2f dB", self.held_out_psnr(shown))


def train(training: Training) -> None:
    """All processes, until the time is over."""
    args = training.args
    for p in training.trained:
        p.data.share_memory_()
    for worker in range(1, args.workers):
        torch.multiprocessing.get_context("fork").Process(
            target=training.run, daemon=True, args=(worker,)
        ).start()
    training.run(0)


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    args = arguments()
    start_comfy(1)
    torch.manual_seed(args.seed)
    train(Training(args, read_vae(args.start) if args.start else new_vae(args.channels)))


if __name__ == "__main__":
    main()
