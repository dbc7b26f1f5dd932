"""What a diffusion model predicts, and how latents are noised for it: noise, velocity or flow.

Frame: latents as ComfyUI's samplers hold them, (batch, channels, ...) in the model's own scale;
sigma (batch,) as its samplers count it. One class per kind, the same four small methods for all
(the form is k-diffusion's, whose denoisers differ in nothing else).
"""

from abc import ABC, abstractmethod

import torch


class Prediction(ABC):
    """What a model's output is, and what it is of."""

    @abstractmethod
    def noised(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What the model is shown: x at noise level sigma."""

    @abstractmethod
    def target(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """What a perfect model puts out for it."""

    @abstractmethod
    def unit(self, sigma: torch.Tensor) -> torch.Tensor:
        """(batch,): mean square of x where clean and noise have a mean square of 1. A step for a
        latent of unit variance, as papers give them, is one of `unit` times that for x."""


class Eps(Prediction):
    """The noise: SD1.5, SDXL. x = clean + sigma noise (Ho et al. 2020, variance exploding)."""

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return clean + wide(sigma, clean) * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noise

    def unit(self, sigma: torch.Tensor) -> torch.Tensor:
        return 1 + sigma**2


class Velocity(Eps):
    """v = alpha noise - sigma' clean, alpha and sigma' of unit variance (Salimans and Ho 2022):
    SD2.1-768, NoobAI v-pred, models of zero terminal signal-to-noise ratio."""

    def target(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = wide(sigma, clean)
        return (noise - level * clean) / (1 + level**2).sqrt()


class Flow(Prediction):
    """The direction from clean to noise: x = (1 - sigma) clean + sigma noise (Liu et al. 2022):
    Flux, Qwen-Image, Z-Image."""

    def noised(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        level = wide(sigma, clean)
        return (1 - level) * clean + level * noise

    def target(self, clean: torch.Tensor, noise: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return noise - clean

    def unit(self, sigma: torch.Tensor) -> torch.Tensor:
        return (1 - sigma) ** 2 + sigma**2


def wide(sigma: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """sigma (batch,) -> (batch, 1, 1, ...), to be multiplied with latents like these."""
    return sigma.view(-1, *[1] * (like.ndim - 1))
