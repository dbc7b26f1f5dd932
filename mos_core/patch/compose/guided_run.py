"""One guided sampling: where its attention maps come from, and what is done to the latent."""

import logging
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import comfy.model_management
import torch

from ...compose.drawn import Drawn
from ...compose.isolation import Isolation
from ...compose.log import ComposerLog, GuidedStep
from ...compose.reinit import best_window, paste_windows, with_statistics_of
from ...compose.schedule import StopRule, progress, step_sizes
from ...compose.settings import GuidanceSettings
from ...families import family_of
from ..host.autograd import Aliases
from .conditional_pass import maps_recorded
from .gradient import Found, guidance_gradient
from .map_places import choose_maps

LOG = logging.getLogger(__name__)
FIRST_SCALE = 2.0**10  # of the loss in half precision, so that small gradients do not vanish
# Bytes that a pass keeps for its backward, in half precision up to the last layer of 1/32: per cell
# of the latent and per pair of cells. SD1.5 measured; SDXL from the shapes of its full-size layers
# and the maps of those that are chosen. Wider or finer is in proportion.
BYTES = {"sd15": (72e3, 34.0), "sdxl": (244e3, 2.0)}
CHANNELS = 320
NOISE_ALONE = 0.05  # part of the noise schedule: schedulers that begin a little late begin here
USABLE = 0.7  # of the free memory


class GuidedRun:
    """Made anew for every sampling. x: (batch, channels, ..., h, w), the latent it begins with.
    isolation: of the regions, for transformers."""

    def __init__(
        self,
        drawn: Sequence[Drawn],
        settings: GuidanceSettings,
        log: ComposerLog,
        guider: Any,
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict,
        isolation: Isolation | str = "off",
    ):
        self.regions = [one.region for one in drawn]
        self.settings, self.log, self.guider = settings, log, guider
        self.model_options = extra_args.get("model_options", {})
        self.denoise_mask = extra_args.get("denoise_mask")
        self.sigmas = sigmas
        schedule = guider.inner_model.model_sampling.sigmas
        self.begin, self.end = (progress(float(s), schedule) for s in (sigmas[0], sigmas[-1]))
        self.sizes = step_sizes(
            max(len(sigmas) - 1, 1), self.settings.step_size, self.begin, self.end
        )
        self.aliases = Aliases()
        self.rule = StopRule(x.shape[0], self.settings.steps)
        with torch.inference_mode(False):  # what a backward pass keeps must be normal tensors
            self.places = choose_maps(
                guider.inner_model, x, drawn, Isolation.of(isolation), settings, self._say
            )
        model = guider.inner_model
        dtype = model.manual_cast_dtype or model.get_dtype()
        self.scale = FIRST_SCALE if dtype == torch.float16 else 1.0
        chosen = settings.save_memory
        self.save_memory = self._is_short(x, dtype) if chosen is None else chosen

    def _is_short(self, x: torch.Tensor, dtype: torch.dtype) -> bool:
        cells = math.prod(x.shape[-2:])
        config = self.guider.inner_model.model_config.unet_config
        if family_of(config)[0].sequence is not None:
            return True  # what the blocks of a transformer keep is many times the picture
        width = config["model_channels"] / CHANNELS * dtype.itemsize / 2
        per_cell, per_pair = BYTES.get(family_of(config)[0].name, BYTES["sd15"])
        needed = x.shape[0] * width * (per_cell * cells + per_pair * cells**2)
        return needed > USABLE * comfy.model_management.get_free_memory(x.device)

    def _say(self, text: str) -> None:
        if text not in self.log.notes:
            LOG.warning(text)
        self.log.note(text)

    # ----------------------------------------------------------------------- before sampling

    def reinitialise(self, x: torch.Tensor) -> torch.Tensor:
        """The latent with each region's noise taken from where it suits its concept best; x itself
        where the sampling does not begin from noise alone."""
        if self.begin > NOISE_ALONE:
            self._say(
                "Re-initialisation is left out: the sampling begins with a picture or in the "
                "middle, not with noise."
            )
            return x
        comfy.model_management.throw_exception_if_processing_interrupted()
        recorder, sigma = self.places.recorder(), self.sigmas[0].expand(x.shape[0])
        with maps_recorded(
            self.guider, x, sigma, self.model_options, recorder, differentiable=False
        ) as found:
            if found is None:
                return x
            maps = recorder.means(*self.places.grid)
        guided = [r for r in sorted(maps) if maps[r][0].shape[1]]
        if not guided:
            return x
        result = x.clone()
        known = self.places.known
        cells = [known[r] for r in guided]
        for number, latent in enumerate(x):
            places = [best_window(maps[r][0][number], known[r]) for r in guided]
            planes = latent.flatten(0, -3)  # a picture of a video model has a time axis of one
            pasted = paste_windows(planes, places, cells, self.places.cell)
            result[number] = with_statistics_of(pasted, planes).view_as(latent)
        return self._where_allowed(result - x, self.sigmas[0]) + x

    # ----------------------------------------------------------------------- in every step

    def update(self, x: torch.Tensor, sigma: torch.Tensor, step: int) -> None:
        """Changes x in place: x -= size * dLoss/dx, for the pictures that are still guided."""
        if not any(self.rule.active):
            return
        comfy.model_management.throw_exception_if_processing_interrupted()
        sigma = sigma.expand(x.shape[0])
        found = self._gradient(x, sigma)
        if isinstance(found, str):
            self.log.not_guided(step, found)
            return
        gradient, losses, terms, maps, self.scale = found
        fine = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(losses)
        use = fine & torch.tensor(self.rule.active, device=x.device)
        each = (-1, *(1 for _ in x.shape[1:]))
        change = torch.where(use.view(each), gradient, torch.zeros_like(gradient))
        change = change * self._step_size(change, sigma, step).view(each)
        x -= self._where_allowed(change, sigma[0]).to(x.dtype)
        self._note(step, sigma, losses, fine, terms, maps)

    def _gradient(self, x: torch.Tensor, sigma: torch.Tensor) -> Found | str:
        """As `guidance_gradient`; if memory runs out, again with less of it."""
        terms = self.settings.terms
        find = partial(
            guidance_gradient, self.guider, x, sigma, self.model_options, self.places, terms,
            scale=self.scale, aliases=self.aliases,
        )  # fmt: skip
        try:
            return find(save_memory=self.save_memory)
        except comfy.model_management.OOM_EXCEPTION:
            if self.save_memory:
                raise
        self.save_memory = True
        comfy.model_management.soft_empty_cache()
        return find(save_memory=True)

    def _step_size(self, gradient: torch.Tensor, sigma: torch.Tensor, step: int) -> torch.Tensor:
        """(batch,): the step of the schedule, or less where it would go too far."""
        scale = update_scale(self.guider.inner_model.model_sampling, sigma)
        size = torch.full_like(scale, self.sizes[step])
        if self.settings.largest_change > 0:
            unit = gradient.flatten(1).square().mean(1).sqrt() * scale.sqrt()  # of unit variance
            size = size.minimum(self.settings.largest_change / unit.clamp(min=1e-12))
        return size * scale

    def _where_allowed(self, change: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        """A noise mask keeps a part of the picture: nothing of ours goes there."""
        mask = self.denoise_mask
        if mask is None:
            return change
        function = self.model_options.get("denoise_mask_function")
        if function is not None:
            extra = {"model": self.guider, "sigmas": self.sigmas}
            mask = function(sigma.expand(change.shape[0]), mask, extra_options=extra)
        return change * mask

    def _note(
        self,
        step: int,
        sigma: torch.Tensor,
        losses: torch.Tensor,
        fine: torch.Tensor,
        terms: dict[str, torch.Tensor],
        maps: torch.Tensor,
    ) -> None:
        values, allright = losses.tolist(), fine.tolist()
        skipped = [i for i, good in enumerate(allright) if not good and self.rule.active[i]]
        if skipped:
            which = "" if len(values) == 1 else f" of picture {skipped[0] + 1}"
            self._say(
                f"Guidance: the gradient{which} in step {step + 1} was no finite number; the step "
                "was sampled without guidance."
            )
        self.log.steps.append(
            GuidedStep(
                step,
                float(sigma[0]),
                tuple(values),
                {name: tuple(value.tolist()) for name, value in terms.items()},
                maps.cpu(),
                bool(skipped),
            )
        )
        seen = [v if good else math.nan for v, good in zip(values, allright, strict=True)]
        self.rule.seen(step, seen)


def update_scale(sampling: Any, sigma: torch.Tensor) -> torch.Tensor:
    """(batch,): what a picture of unit variance has for a variance at this sigma, 1 + sigma^2 or in
    a rectified flow (1 - sigma)^2 + sigma^2. Step size and gradient both change with its root, so a
    step `a * d/dx_unit` is `a * scale * d/dx` there. sampling: ComfyUI's, of the model."""
    one, none = torch.ones_like(sigma), torch.zeros_like(sigma)
    noise, clean = (sampling.noise_scaling(sigma, *both) for both in ((one, none), (none, one)))
    return clean.square() + noise.square()
