"""The training loss: masked noise prediction error and attention regularisation (Mix-of-Show)."""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F


def masked_mse(prediction: torch.Tensor, target: torch.Tensor, weight: torch.Tensor):
    """Mean squared error over the weighted cells, per image, then over the batch.

    prediction, target: (batch, channels, h, w); weight: (batch, 1, h, w) in 0..1. Scalar.
    """
    error = (prediction - target).square().mean(1, keepdim=True)  # (batch, 1, h, w)
    return ((error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))).mean()


def token_maps(q: torch.Tensor, k: torch.Tensor, heads: int, select: torch.Tensor) -> torch.Tensor:
    """Cross-attention maps of the concept tokens, averaged over heads.

    q: (batch, n, heads * d); k: (batch, tokens, heads * d); select: (batch, concept tokens,
    tokens), 1 where a concept token stands. Returns (batch, concept tokens, n).
    """
    q = q.unflatten(-1, (heads, -1)).transpose(1, 2).float()  # (batch, heads, n, d)
    k = k.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    attention = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1).mean(1)
    return torch.einsum("bnt,bct->bcn", attention, select)


def regularise_attention(
    maps: Mapping[tuple[int, int], Sequence[torch.Tensor]], mask: torch.Tensor, whole: bool
) -> torch.Tensor:
    """Holds the concept tokens' attention inside the concept's mask. Scalar.

    maps: grid (h, w) -> a map (batch, concept tokens, h * w) per layer of that resolution;
    mask: (batch, 1, H, W) in 0..1. whole: the concept is the whole object, so that every token
    but the first should fill the mask; otherwise they should only stay inside.
    """
    total = mask.new_zeros(())
    for (h, w), layers in maps.items():
        mean = torch.stack(tuple(layers)).mean(0)
        mean = mean / mean.amax(-1, keepdim=True).clamp_min(1e-6)
        inside = (F.interpolate(mask, (h, w), mode="area") > 0.5).float().flatten(2)
        outside = 1 - inside  # (batch, 1, h * w)
        leak = (mean * outside).sum(-1) / outside.sum(-1).clamp_min(1)  # (batch, tokens)
        total = total + leak[:, 0].mean()
        if mean.shape[1] > 1:
            rest = (mean - inside).square().mean(-1) if whole else leak
            total = total + rest[:, 1:].mean()
    return total
