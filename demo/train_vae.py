"""Train the VAE of the miniature world: ComfyUI's TAESD shape (f8, 4 channels), latents of about
unit variance.

    COMFYUI_PATH=... python demo/train_vae.py --sprites sprites.npz --out vae.safetensors --minutes
    10

The encoder is kept slim: the blocks listed in `IDLE` are a mere ReLU (zero weights), which saves
most of the time.
Held-out characters are in these pictures too: an autoencoder does not learn names, and ComfyUI
users
train concepts on VAEs that have seen everything as well.
"""

import argparse
import logging
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from characters import all_characters
from compose import random_scene, read_sprites
from safetensors.torch import load_file, save_file
from start_comfy import start_comfy

SCALE_FACTOR = (
    0.18215  # ComfyUI's SD15 latent format multiplies by this, so `vae_scale` divides by it
)
IDLE = (
    "taesd_encoder.1.",
    "taesd_encoder.4.",
    "taesd_encoder.5.",
    "taesd_encoder.8.",
    "taesd_decoder.3.",
    "taesd_decoder.8.",
    "taesd_decoder.13.",
)


def new_vae() -> torch.nn.Module:
    """A TAESD with fresh weights; its idle blocks are a mere ReLU."""
    from comfy.taesd.taesd import TAESD

    vae = TAESD(latent_channels=4)
    for name, p in vae.named_parameters():
        if p.ndim == 4:
            torch.nn.init.kaiming_normal_(p, nonlinearity="relu")
            if ".conv.4." in name:
                p.data *= 0.2  # a residual branch starts small
        elif p.ndim == 1:
            torch.nn.init.zeros_(p)
        if name.startswith(IDLE):
            p.data.zero_()
    vae.taesd_encoder[-1].weight.data *= 0.3
    vae.vae_scale.data.fill_(SCALE_FACTOR)
    return vae


def active(half: torch.nn.Sequential, prefix: str) -> list[torch.nn.Module]:
    """The layers with the idle blocks replaced by the ReLU that each of them ends with."""
    return [torch.nn.ReLU() if f"{prefix}.{i}." in IDLE else layer for i, layer in enumerate(half)]


def encode(vae, pictures: torch.Tensor) -> torch.Tensor:
    """(b, 3, h, w) in 0..1 -> (b, 4, h/8, w/8), about unit variance: the space in which the UNet
    works."""
    for layer in active(vae.taesd_encoder, "taesd_encoder"):
        pictures = layer(pictures)
    return pictures


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """(b, 4, h/8, w/8) -> (b, 3, h, w), about 0..1"""
    for layer in active(vae.taesd_decoder, "taesd_decoder"):
        latents = layer(latents)
    return latents


def edges(x: torch.Tensor) -> torch.Tensor:
    return torch.cat(
        [(x[..., 1:, :] - x[..., :-1, :]).flatten(1), (x[..., 1:] - x[..., :-1]).flatten(1)], 1
    )


def make_crops(sprites, count: int, crop: int, size: int, seed: int) -> torch.Tensor:
    """(count, 3, crop, crop) uint8 crops of composed pictures, placed on the grid of 8 pixels or
    anywhere"""
    rng, words, crops = (
        np.random.default_rng(seed),
        [c.word for c in all_characters() if c.word in sprites],
        [],
    )
    while len(crops) < count:
        picture = random_scene(
            sprites, words, str(rng.choice(["square", "wide"], p=[0.7, 0.3])), rng, size
        ).picture
        for _ in range(3):
            y, x = (
                rng.integers(0, picture.shape[0] - crop + 1),
                rng.integers(0, picture.shape[1] - crop + 1),
            )
            piece = picture[y : y + crop, x : x + crop]
            if piece.std() > 12 or rng.random() < 0.3:
                crops.append(piece)
    return torch.from_numpy(np.stack(crops[:count])).permute(0, 3, 1, 2).contiguous()


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sprites", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--size", type=int, default=128, help="height of the pictures")
    parser.add_argument("--crop", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument(
        "--decoder-only",
        action="store_true",
        help="go on with the decoder, the encoder stays as it is",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    args = parser.parse_args()
    start_comfy(args.threads)
    torch.manual_seed(args.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = new_vae()
    if os.path.exists(args.out):
        vae.load_state_dict(load_file(args.out))
    vae = vae.to(device, memory_format=torch.channels_last)
    crops = make_crops(read_sprites(args.sprites), 6000, args.crop, args.size, args.seed)
    trained = [
        p.requires_grad_(True)
        for n, p in vae.named_parameters()
        if not n.startswith(IDLE)
        and not n.startswith("vae_")
        and (not args.decoder_only or "decoder" in n)
    ]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.99), weight_decay=1e-4)
    start, step, seen, sums = time.time(), 0, 0, np.zeros(4)
    while (done := (time.time() - start) / 60 / args.minutes) < 1:
        rate = args.lr * min(1, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * done)) + 2e-6
        for group in optimizer.param_groups:
            group["lr"] = rate
        x = (
            crops[torch.randint(len(crops), (args.batch,))]
            .to(device)
            .float()
            .div(255)
            .contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast(device, torch.bfloat16, enabled=args.bf16):
            z = encode(vae, x)
            y = decode(vae, z + 0.05 * torch.randn_like(z))
        y, z = y.float(), z.float()
        pixel = (y - x).abs().mean() + 2 * F.mse_loss(y, x)
        edge = (edges(y) - edges(x)).abs().mean()
        mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
        unit = mean.square().mean() + (std - 1).square().mean()
        loss = pixel + edge + 0.2 * unit
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        step, seen = step + 1, seen + args.batch
        sums += [pixel.item(), edge.item(), F.mse_loss(y.clamp(0, 1), x).item(), std.mean().item()]
        if step % 100 == 0:
            pixel, edge, mse, std = sums / 100
            logging.info(
                "step %d, crops %d (%.1f/s), pixel %.4f, edge %.4f, psnr %.2f dB, latent std %.3f",
                step,
                seen,
                seen / (time.time() - start),
                pixel,
                edge,
                -10 * np.log10(mse),
                std,
            )
            sums[:] = 0
    save_file(
        {k: v.detach().float().cpu().contiguous() for k, v in vae.state_dict().items()},
        args.out + ".part",
    )
    os.replace(args.out + ".part", args.out)


if __name__ == "__main__":
    main()
