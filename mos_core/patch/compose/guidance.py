"""LoRA-Composer's guidance of the latent, around any sampler of ComfyUI.

A SAMPLER_SAMPLE wrapper puts a function of ours in the place of the sampler's own, for the time of
one sampling: it re-initialises the latent and hands the sampler a model that changes the latent at
the beginning of a step. Frame: ComfyUI's x = clean + sigma * noise.
"""

from collections.abc import Callable, Sequence
from typing import Any

import comfy.patcher_extension
import torch

from ...compose.drawn import Drawn
from ...compose.isolation import Isolation
from ...compose.log import ComposerLog
from ...compose.settings import GuidanceSettings
from ...errors import SamplerError
from ..host.sampler_plan import plan_steps
from .guided_run import GuidedRun

KEY = "mix_of_show_guidance"  # of our wrappers on a ModelPatcher
WrappersMP = comfy.patcher_extension.WrappersMP


class Guidance:
    """The wrappers. log: filled while sampling. isolation: of the regions, which a
    transformer's maps count in."""

    def __init__(
        self,
        drawn: Sequence[Drawn],
        settings: GuidanceSettings,
        log: ComposerLog,
        isolation: Isolation | str = "off",
    ):
        self.drawn = tuple(drawn)
        self.settings, self.log, self.isolation = settings, log, Isolation.of(isolation)

    def __deepcopy__(self, memo: dict) -> "Guidance":
        return self

    def to(self, *args: Any, **kwargs: Any) -> "Guidance":
        return self  # nothing of ours lies on a device

    def load(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """PREPARE_SAMPLING wrapper: newer versions stream weights that do not fit through buffers
        that are used again, which a backward pass must not meet. They can load all of them."""
        if self.settings.updates and "force_full_load" in kwargs:
            kwargs["force_full_load"] = True
        return executor(*args, **kwargs)

    def __call__(
        self, executor: Any, guider: Any, sigmas: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        sampler = executor.class_obj
        own = getattr(sampler, "sampler_function", None)
        if own is None:
            raise SamplerError(
                f"The sampler '{type(sampler).__name__}' steps in a way of its own, which Composer "
                "Attention cannot guide. Choose one of ComfyUI's samplers, or set guidance_steps "
                "to 0 and switch reinitialise off."
            )

        def guided(
            model_k: Any,
            x: torch.Tensor,
            sigmas: torch.Tensor,
            extra_args: dict | None = None,
            callback: Callable | None = None,
            disable: bool | None = None,
            **options: Any,
        ) -> torch.Tensor:
            self.log.begin(len(sigmas) - 1)
            extra_args = extra_args or {}
            plan = {}
            if self.settings.updates:
                plan = plan_steps(own, model_k, sigmas, extra_args, options)
            run = GuidedRun(
                self.drawn, self.settings, self.log, guider, x, sigmas, extra_args, self.isolation
            )
            if self.settings.reinitialise:
                x = run.reinitialise(x)
            model = GuidedModel(model_k, plan, run)
            return own(
                model, x, sigmas, extra_args=extra_args, callback=callback, disable=disable,
                **options,
            )  # fmt: skip

        guided.__name__ = getattr(own, "__name__", "guided")
        sampler.sampler_function = guided
        try:
            return executor(guider, sigmas, *args, **kwargs)
        finally:
            sampler.sampler_function = own


class GuidedModel:
    """What the sampler takes for its model: changes the latent in place where a step begins."""

    def __init__(self, model_k: Any, plan: dict[int, int], run: GuidedRun):
        self.model_k, self.plan, self.run = model_k, plan, run
        self.calls = 0

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        step = self.plan.get(self.calls)
        self.calls += 1
        if step is not None:
            self.run.update(x, sigma, step)
        return self.model_k(x, sigma, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "model_k":
            raise AttributeError(name)
        return getattr(self.model_k, name)


def add_guidance(model: Any, guidance: Guidance) -> None:
    """Puts the guidance on `model`, a ModelPatcher clone of ours, if it has anything to do."""
    if guidance.settings.acts and guidance.drawn:
        model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, KEY, guidance)
        model.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, guidance.load)
