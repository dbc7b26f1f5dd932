"""The gradient of the guidance's loss with respect to the latent: one pass, nothing is kept."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from ...compose.guidance import GuidanceTerms, RegionLoss, balanced, region_loss
from ..host.autograd import Aliases
from .conditional_pass import maps_recorded
from .map_places import MapPlaces

SMALLER = 2.0**5  # the loss's scale is divided by this while gradients overflow
NO_PROMPT = "no positive prompt for the whole picture is active then."
NO_MAPS = (
    "no layer has attention maps of 1/{} of the picture that belong to a region. Another node on "
    "this MODEL may merge, tile or resize the picture there, or every region is smaller than a "
    "cell: choose other attention_maps, or leave out that node."
)


class Found(NamedTuple):
    """gradient: (batch, channels, h, w) float32. losses: (batch,). terms: of the first picture, by
    name, (regions,). maps: of the first picture, (regions, rows, columns). scale: of the loss, that
    the gradient was taken with; it is divided out."""

    gradient: torch.Tensor
    losses: torch.Tensor
    terms: dict[str, torch.Tensor]
    maps: torch.Tensor
    scale: float


def guidance_gradient(
    guider: Any,
    x: torch.Tensor,
    sigma: torch.Tensor,
    model_options: dict,
    places: MapPlaces,
    terms: GuidanceTerms,
    save_memory: bool = False,
    scale: float = 1.0,
    aliases: Aliases | None = None,
) -> Found | str:
    """dLoss/dx and what it was taken from; or, as text, why there is nothing to guide by.

    guider, model_options, aliases: of the sampling. x: (batch, channels, h, w) as the sampler holds
    it; sigma: (batch,). save_memory: as in `maps_recorded`. scale: of the loss in half precision;
    it becomes less, down to 1, while the gradient overflows.
    """
    known = places.known
    while True:
        recorder = places.recorder()
        with maps_recorded(
            guider, x, sigma, model_options, recorder, save_memory=save_memory, aliases=aliases
        ) as latent:
            if latent is None:
                return NO_PROMPT
            maps = recorder.means(*places.grid)
            if not maps:
                return NO_MAPS.format(places.pixels)
            parts = {r: region_loss(*both, known[r], terms) for r, both in maps.items()}
            each = torch.stack([part.total for part in parts.values()])
            losses = balanced(each) if terms.balance else each.sum(0)
            recorder.replaying = True
            (gradient,) = torch.autograd.grad(losses.sum() * scale, latent)
        gradient = gradient / scale
        if scale == 1.0 or bool(torch.isfinite(gradient).all()):
            break
        scale = max(1.0, scale / SMALLER)
    shown = first_maps(maps, len(places.cells), places.grid, x.device)
    return Found(gradient, losses.detach(), first_terms(parts, len(places.cells)), shown, scale)


def first_terms(parts: Mapping[int, RegionLoss], regions: int) -> dict[str, torch.Tensor]:
    """The terms of the first picture by name, each (regions,) on the CPU; 0 for regions without a
    loss. One transfer for all of them: whoever reads from a GPU, waits for it."""
    names = ("enhancement", "fill", "restriction")
    own = [torch.stack([getattr(p, name)[0].detach() for name in names]) for p in parts.values()]
    values = torch.zeros(regions, len(names))
    values[list(parts)] = torch.stack(own).to(values)
    return dict(zip(names, values.unbind(1), strict=True))


def first_maps(
    maps: Mapping[int, tuple[torch.Tensor, torch.Tensor]],
    regions: int,
    grid: tuple[int, int],
    device: torch.device,
) -> torch.Tensor:
    """(regions, rows, columns): means over the concept tokens in the first picture, 0 without."""
    shown = torch.zeros(regions, *grid, device=device)
    for region, (tokens, _) in maps.items():
        if tokens.shape[1]:
            shown[region] = tokens[0].detach().mean(0)
    return shown
