"""The miniature VAE while it is trained and used in training: ComfyUI's TAESD class."""

import torch

# ComfyUI's latent formats give the model (latent - shift) * scale; the VAE does the opposite, so
# that the model sees what the encoder gives.
SCALES = {4: (0.18215, 0.0), 16: (0.3611, 0.1159)}
HALVES = ("taesd_encoder", "taesd_decoder")
IDLE = ("taesd_encoder.1.",)  # a mere ReLU: a quarter of the time for next to nothing


def new_vae(channels: int = 4) -> torch.nn.Module:
    """A TAESD with fresh weights of 4 or 16 latent channels; its idle blocks are a mere ReLU."""
    from comfy.taesd.taesd import TAESD

    vae = TAESD(latent_channels=channels)
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
    scale, shift = SCALES[channels]
    vae.vae_scale.data.fill_(scale)
    vae.vae_shift.data.fill_(shift)
    return vae


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint, packed ones in fp16."""
    from mos_core.formats.miniature_file import read_miniature_tensors

    return read_miniature_tensors(path)


def read_vae(path: str) -> torch.nn.Module:
    """The VAE of a miniature checkpoint or of a file of its own, in fp32."""
    tensors = read_tensors(path)
    for prefix in ("first_stage_model.", "vae."):  # of checkpoints
        own = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        tensors = own or tensors
    tensors = {k: v.float() for k, v in tensors.items()}
    vae = new_vae(tensors["taesd_decoder.1.weight"].shape[1])
    vae.load_state_dict(tensors)
    return vae


def wake(vae: torch.nn.Module, halves: tuple[str, ...] = HALVES) -> None:
    """Blocks that are all zeros (and not IDLE) get weights to learn from; they compute the same."""
    for name in halves:
        for i, block in enumerate(getattr(vae, name)):
            if not hasattr(block, "conv") or f"{name}.{i}." in IDLE:
                continue
            if not any(bool(p.any()) for p in block.conv.parameters()):
                for layer in (0, 2):
                    torch.nn.init.kaiming_normal_(block.conv[layer].weight, nonlinearity="relu")


def active(half: torch.nn.Sequential, prefix: str) -> list[torch.nn.Module]:
    """The layers with the idle blocks replaced by the ReLU that each of them ends with."""
    return [torch.nn.ReLU() if f"{prefix}.{i}." in IDLE else layer for i, layer in enumerate(half)]


def encode(vae, pictures: torch.Tensor) -> torch.Tensor:
    """(b, 3, h, w) in 0..1 -> (b, c, h/8, w/8), about unit variance: what the model sees."""
    for layer in active(vae.taesd_encoder, "taesd_encoder"):
        pictures = layer(pictures)
    return pictures


def decode(vae, latents: torch.Tensor) -> torch.Tensor:
    """(b, c, h/8, w/8) -> (b, 3, h, w), about 0..1"""
    for layer in active(vae.taesd_decoder, "taesd_decoder"):
        latents = layer(latents)
    return latents
