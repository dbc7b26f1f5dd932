"""The shapes of model that train.py can train: what differs between Stable Diffusion's UNet and
Flux's transformer. A caption is one row of token ids for each: those of all its text encoders."""

import math

import torch
from networks import ALPHAS, SIZES, TextEncoder, new_unet, plain_attention, sample
from networks_flux import CLIP_TOKENS, FLUX_SIZES, FluxTexts, new_flux, sample_flow
from networks_sdxl import SDXL_SIZES, SDXLTexts, new_sdxl, read_sd15_unet, sizes_of
from vae import read_tensors

T5_TOKENS = 64
OVERRIDE = "optimized_attention_override"
CLIP_ROOT = "transformer.text_model."
CLIP_TABLE = CLIP_ROOT + "embeddings.token_embedding."


def clip_ids(texts: list[str]) -> torch.Tensor:
    """-> (n, 77) int32"""
    from comfy.sd1_clip import SDTokenizer

    tokenizer = SDTokenizer(embedding_size=128)
    return _ids(tokenizer, texts)


def _ids(tokenizer, texts: list[str]) -> torch.Tensor:
    return torch.tensor(
        [[pair[0] for pair in tokenizer.tokenize_with_weights(text)[0]] for text in texts],
        dtype=torch.int32,
    )


def under(tensors: dict, prefix: str) -> dict:
    """The entries below a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@torch.no_grad()
def read_clip(stored: dict, text: TextEncoder) -> None:
    """Puts stored weights into a text encoder; token rows that are not stored stay as they are."""
    known = {int(row): i for i, row in enumerate(stored[CLIP_TABLE + "rows"])}
    for name, target in text.checkpoint().items():
        if name == CLIP_TABLE + "weight":
            for i, row in enumerate(text.rows.tolist()):
                if row in known:
                    target[i] = stored[name][known[row]]
        elif name != CLIP_TABLE + "rows":
            target.copy_(stored[name])


class StableDiffusion:
    """Version 1's UNet: noise prediction on 4 channels, CLIP's text at every cross-attention."""

    channels, sizes, vae_prefix = 4, SIZES, "first_stage_model."
    latent_scale = 0.18215  # ComfyUI's latents times this are what the model sees
    short = (16, 32)  # tokens while the text is kept short, to save time

    def token_ids(self, texts: list[str]) -> torch.Tensor:
        return clip_ids(texts)

    def networks(self, config: tuple[dict, dict], ids: torch.Tensor):
        """config: of `sizes`; ids: every token id in use -> model, text encoder"""
        unet, text = config
        return new_unet(unet), TextEncoder(text, ids.unique().cpu())

    def loss(self, unet, text, latents, ids, args) -> torch.Tensor:
        """Noise prediction, weighted by min(SNR, 5) / SNR (min-SNR, Hang et al. 2023), and where
        there is more noise than picture by up to `args.layout` times more: places are decided
        there."""
        b, device, bf16 = len(latents), latents.device, not args.fp32
        t = (1000 * torch.rand(b, device=device) ** args.times).long()
        noise, a = torch.randn_like(latents), ALPHAS.to(device)[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * latents + (1 - a).sqrt() * noise
        given = self.conditions(text, ids, latents.shape)
        fast = {OVERRIDE: plain_attention}
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = unet(
                noisy,
                t,
                **given,
                transformer_options=fast if bf16 and device.type == "cpu" else {},
            )
        snr = (a / (1 - a)).flatten()
        weight = snr.clamp(max=5) / snr * (1 / snr).clamp(1, args.layout)
        return ((predicted.float() - noise).square().mean((1, 2, 3)) * weight).mean()

    def conditions(self, text, ids, shape) -> dict[str, torch.Tensor]:
        """What the UNet is given of captions beside latents of this shape (..., h, w)."""
        return {"context": text(ids)}

    def sample(self, unet, text, ids, empty, shape, steps: int) -> torch.Tensor:
        both = torch.cat([ids, empty[None].expand(len(ids), -1)])
        return sample(unet, self.conditions(text, both, shape), shape, steps)

    def record(self, config: tuple[dict, dict]) -> dict:
        unet, text = config
        return {"version": 1, "unet": unet, "text_encoder": text}

    def tensors(self, unet, text) -> dict[str, torch.Tensor]:
        out = {"model.diffusion_model." + key: value for key, value in unet.state_dict().items()}
        return out | {"cond_stage_model." + key: p for key, p in text.checkpoint().items()}

    def read(self, path: str, unet, text) -> None:
        """Puts the weights of a miniature checkpoint into networks of the same shape."""
        stored = read_tensors(path)
        unet.load_state_dict(under(stored, "model.diffusion_model."))
        read_clip(under(stored, "cond_stage_model."), text)


class Flux:
    """Flux.1 Schnell's transformer: rectified flow on 16 channels, T5's text, CLIP's pooled one."""

    channels, sizes, vae_prefix = 16, FLUX_SIZES, "vae."
    latent_scale = 0.3611
    short = tuple(CLIP_TOKENS + n for n in (16, 24, 32, 40, 48))

    def token_ids(self, texts: list[str]) -> torch.Tensor:
        """-> (n, 77 + 64) int32: CLIP's, then T5's"""
        from comfy.text_encoders.flux import T5XXLTokenizer

        tokenizer = T5XXLTokenizer(tokenizer_data={"t5xxl_min_length": T5_TOKENS})
        rows = [tokenizer.tokenize_with_weights(text)[0] for text in texts]
        if (longest := max(map(len, rows))) > T5_TOKENS:
            raise ValueError(f"a caption has {longest} tokens of T5, more than {T5_TOKENS}")
        t5 = torch.tensor([[pair[0] for pair in row] for row in rows], dtype=torch.int32)
        return torch.cat([clip_ids(texts), t5], 1)

    def networks(self, config: tuple[dict, dict, dict], ids: torch.Tensor):
        model, clip, t5 = config
        rows = [part.unique().cpu() for part in ids.split([CLIP_TOKENS, T5_TOKENS], 1)]
        return new_flux(model), FluxTexts(clip, t5, *rows)

    def loss(self, model, text, latents, ids, args) -> torch.Tensor:
        """Velocity on the straight line from picture to noise; times oftenest in its middle (Esser
        et al. 2024), nearer to the noise with `args.layout` above 1: places are decided there.

        But for a share `args.own_pooled`, CLIP's pooled text is another picture's: a small model
        reads who stands where from it alone else, and its T5 says nothing."""
        b, device = len(latents), latents.device
        t = (torch.randn(b, device=device) + math.log(args.layout)).sigmoid()
        t = torch.where(torch.rand(b, device=device) < 0.1, torch.rand(b, device=device), t)
        noise, s = torch.randn_like(latents), t.view(-1, 1, 1, 1)
        context, pooled = text(ids)
        own = torch.rand(b, 1, device=device) < args.own_pooled
        pooled = torch.where(own, pooled, pooled.roll(1, 0))
        bf16 = not args.fp32
        options = {OVERRIDE: plain_attention} if bf16 and device.type == "cpu" else {}
        noisy = (1 - s) * latents + s * noise
        from mos_core.patch.host.autograd import autograd_on  # newer ComfyUI: kernels to train with

        with autograd_on(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            predicted = model(noisy, t, context, pooled, transformer_options=options)
        return (predicted.float() - (noise - latents)).square().mean()

    def sample(self, model, text, ids, empty, shape, steps: int) -> torch.Tensor:
        return sample_flow(model, text, ids, empty, shape, steps)

    def record(self, config: tuple[dict, dict, dict]) -> dict:
        model, clip, t5 = config
        texts = {"clip_l": clip, "t5xxl": {**t5, "min_length": T5_TOKENS}}
        return {"version": 2, "family": "flux", "model": model, "text_encoder": texts}

    def tensors(self, model, text) -> dict[str, torch.Tensor]:
        out = {"model.diffusion_model." + key: value for key, value in model.state_dict().items()}
        return out | {"text_encoders." + key: p for key, p in text.checkpoint().items()}

    def read(self, path: str, model, text) -> None:
        stored = read_tensors(path)
        model.load_state_dict(under(stored, "model.diffusion_model."))
        read_clip(under(stored, "text_encoders.clip_l."), text.clip)
        text.read_t5(under(stored, "text_encoders.t5xxl.transformer."))


class StableDiffusionXL(StableDiffusion):
    """SDXL's UNet: as version 1's, and reads two text encoders, a pooled text and the sizes."""

    sizes, latent_scale = SDXL_SIZES, 0.13025

    def networks(self, config: tuple[dict, dict, dict], ids: torch.Tensor):
        unet, clip_l, clip_g = config
        texts = {"clip_l": clip_l, "clip_g": clip_g}
        return new_sdxl(unet, texts), SDXLTexts(texts, ids.unique().cpu())

    def conditions(self, text, ids, shape) -> dict[str, torch.Tensor]:
        context, pooled = text(ids)
        return {"context": context, "y": torch.cat([pooled, sizes_of(shape, pooled)], 1)}

    def record(self, config: tuple[dict, dict, dict]) -> dict:
        unet, clip_l, clip_g = config
        texts = {"clip_l": clip_l, "clip_g": clip_g}
        return {"version": 2, "family": "sdxl", "model": unet, "text_encoder": texts}

    def tensors(self, unet, text) -> dict[str, torch.Tensor]:
        out = {"model.diffusion_model." + key: value for key, value in unet.state_dict().items()}
        return out | {"text_encoders." + key: p for key, p in text.checkpoint().items()}

    def read(self, path: str, unet, text) -> None:
        """Of a miniature checkpoint of Stable Diffusion 1.5's shape: what fits of its UNet."""
        stored = read_tensors(path)
        if not (clip_l := under(stored, "text_encoders.clip_l.")):
            read_sd15_unet(under(stored, "model.diffusion_model."), unet)
            return
        unet.load_state_dict(under(stored, "model.diffusion_model."))
        clip_g = under(stored, "text_encoders.clip_g.")
        with torch.no_grad():
            text.projection.weight.copy_(clip_g.pop("transformer.text_projection.weight"))
        read_clip(clip_l, text.clip_l)
        read_clip(clip_g, text.clip_g)


FAMILIES = {"sd15": StableDiffusion(), "flux": Flux(), "sdxl": StableDiffusionXL()}
