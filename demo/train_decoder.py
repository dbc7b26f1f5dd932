"""Go on with the decoder of a miniature checkpoint's VAE alone: everything that was trained on its
latents, model, concepts and fusions, stays as it is, and its pictures become sharper.

    COMFYUI_PATH=... python demo/train_decoder.py --sprites sprites.npz --start
    demo/models/miniature.safetensors --out vae.safetensors --minutes 60

Half of what it learns to decode is the encoder's latents, half is what the checkpoint's own model
makes of them after noise, in one step: the kind of latents that it draws.
"""

import logging
import os

import numpy as np
import torch
import torch.nn.functional as F
from compose import random_scene, read_sprites
from start_comfy import start_comfy
from train_vae import HELD_OUT, Training, parser_for, picture_loss, to_batch, train
from vae import decode, encode, read_vae

CELLS = 8  # latents along a window
ANYWHERE = 0.25  # of the windows, not around a character
TIMES = (20, 420)  # noise levels from which the model redraws


class Pictures:
    """Square pictures: `pixels` (n, 3, h, w) uint8, `captions`, `boxes` (a list each), `known`:
    whether the model knows everybody in it, `latents`, `redrawn` (n, 4, h/8, w/8)."""

    def __init__(self, sprites, count: int, size: int, seed: int):
        from characters import all_characters, held_out_characters

        rng = np.random.default_rng(seed)
        words = [c.word for c in all_characters() if c.word in sprites]
        unknown = {c.word for c in held_out_characters()}
        scenes = [random_scene(sprites, words, "square", rng, size) for _ in range(count)]
        pixels = torch.from_numpy(np.stack([scene.picture for scene in scenes]))
        self.pixels = pixels.permute(0, 3, 1, 2).contiguous()
        self.captions = [scene.caption for scene in scenes]
        self.boxes = [scene.boxes for scene in scenes]
        self.known = torch.tensor([not unknown & set(scene.words) for scene in scenes])
        self.latents = self.redrawn = torch.empty(0)

    @torch.no_grad()
    def encode(self, vae, device: str, redraw) -> None:
        """Fills `latents` and `redrawn`: redraw(latents, captions) -> latents."""
        latents, redrawn = [], []
        for start in range(0, len(self.pixels), 50):
            x = to_batch(self.pixels[start : start + 50], device)
            with torch.autocast(device, torch.bfloat16):
                z = encode(vae, x).float()
            known = self.known[start : start + 50].to(device)[:, None, None, None]
            again = torch.where(known, redraw(z, self.captions[start : start + 50]), z)
            latents.append(z.cpu())
            redrawn.append(again.cpu())
        self.latents, self.redrawn = torch.cat(latents), torch.cat(redrawn)

    def windows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows, most around characters -> latents (count, 4, 8, 8), pixels (count, 3, 64, 64)"""
        latents, pixels = [], []
        for number in torch.randint(len(self.pixels), (count,)).tolist():
            boxes, cells = self.boxes[number], self.latents.shape[-1]
            box = boxes[int(torch.randint(len(boxes), ()))]
            middle = ((box[1] + box[3]) / 2 * cells, (box[0] + box[2]) / 2 * cells)
            if torch.rand(()) < ANYWHERE:
                middle = tuple((torch.rand(2) * cells).tolist())
            shake = (torch.rand(2) * 3 - 1.5).tolist()
            y, x = (
                int(np.clip(round(m + s - CELLS / 2), 0, cells - CELLS))
                for m, s in zip(middle, shake, strict=True)
            )
            source = self.latents if torch.rand(()) < 0.5 else self.redrawn
            latents.append(source[number, :, y : y + CELLS, x : x + CELLS])
            cut = (slice(8 * y, 8 * (y + CELLS)), slice(8 * x, 8 * (x + CELLS)))
            pixels.append(self.pixels[number, :, cut[0], cut[1]])
        return torch.stack(latents), torch.stack(pixels)


def redrawing(path: str, device: str):
    """redraw(latents, captions) of the model of a miniature checkpoint: noise, and one step back
    to a picture."""
    from export import read_networks
    from families import FAMILIES
    from networks import ALPHAS, plain_attention

    unet, text = (network.to(device) for network in read_networks(path))
    token_ids, alphas = FAMILIES["sd15"].token_ids, ALPHAS.to(device)
    options = {"optimized_attention_override": plain_attention} if device == "cpu" else {}

    def redraw(z: torch.Tensor, captions: list[str]) -> torch.Tensor:
        t = torch.randint(*TIMES, (len(z),), device=device)
        a, noise = alphas[t].view(-1, 1, 1, 1), torch.randn_like(z)
        noisy, context = a.sqrt() * z + (1 - a).sqrt() * noise, token_ids(captions)
        with torch.autocast(device, torch.bfloat16):
            predicted = unet(
                noisy,
                t,
                context=text(context.long().to(device)[:, :48]),
                transformer_options=options,
            ).float()
        return (noisy - (1 - a).sqrt() * predicted) / a.sqrt()

    return redraw


class DecoderTraining(Training):
    halves = ("taesd_decoder",)

    def prepare(self) -> None:
        args, sprites = self.args, read_sprites(self.args.sprites)
        redraw = redrawing(args.start, self.device)
        self.pictures = Pictures(sprites, args.pictures, args.size, args.seed)
        self.measured = Pictures(sprites, args.measured, args.size, HELD_OUT)
        kept = f"{args.out}.pictures"
        if os.path.exists(kept):  # of this training, before it was stopped
            self.measured.latents, self.measured.redrawn = torch.load(kept)[:2]
            self.pictures.latents, self.pictures.redrawn = torch.load(kept)[2:]
            return
        for pictures in (self.measured, self.pictures):
            pictures.encode(self.vae, self.device, redraw)
        both = (self.measured, self.pictures)
        torch.save([t for pictures in both for t in (pictures.latents, pictures.redrawn)], kept)
        logging.info("%d pictures encoded", len(self.pictures.latents))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        z, pixels = self.pictures.windows(self.args.batch)
        x, z = to_batch(pixels, self.device), self.noisy(z.to(self.device))
        z = z.contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=not self.args.fp32):
            y = decode(self.vae, z)
        y = y.float()
        return picture_loss(y, x), F.mse_loss(y.detach().clamp(0, 1), x)

    @torch.no_grad()
    def held_out_psnr(self, vae) -> float:
        """dB in the boxes of the characters of held-out pictures; logs whole pictures, and the
        boxes of redrawn ones."""
        found = {
            name: self.errors(vae, latents)
            for name, latents in (
                ("encoded", self.measured.latents),
                ("redrawn", self.measured.redrawn),
            )
        }
        decibels = {
            name: [-10 * float(np.log10(error)) for error in errors]
            for name, errors in found.items()
        }
        logging.info(
            "held-out: whole pictures %.2f dB, characters %.2f dB; redrawn by the model %.2f, %.2f",
            *decibels["encoded"],
            *decibels["redrawn"],
        )
        return decibels["encoded"][1]

    def errors(self, vae, latents: torch.Tensor) -> tuple[float, float]:
        """Mean squared error of whole pictures and of the characters' boxes."""
        whole, boxes = [], []
        for start in range(0, len(latents), 25):
            x = to_batch(self.measured.pixels[start : start + 25], self.device)
            with torch.autocast(self.device, torch.bfloat16):
                y = decode(vae, latents[start : start + 25].to(self.device))
            error = (y.float().clamp(0, 1) - x).square().mean(1)
            whole.append(float(error.mean()))
            side = error.shape[-1]
            for picture, found in zip(error, self.measured.boxes[start : start + 25], strict=True):
                for box in found:
                    x0, y0, x1, y1 = (round(edge * side) for edge in box)
                    boxes.append(float(picture[y0:y1, x0:x1].mean()))
        return float(np.mean(whole)), float(np.mean(boxes))


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    parser = parser_for(__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--measured", type=int, default=100, help="held-out pictures")
    args = parser.parse_args()
    if not args.start:
        parser.error("--start: the miniature checkpoint whose decoder is to go on")
    start_comfy(1)
    torch.manual_seed(args.seed)
    train(DecoderTraining(args, read_vae(args.start)))


if __name__ == "__main__":
    main()
