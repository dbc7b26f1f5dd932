"""Refinement of a fusion on ComfyUI's own models: the concepts' own predictions, and gradients for
the fused weights.

One model in memory at any time: first each concept's own, of which only predictions are kept, then
the base model with the fused deltas beside its weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ...families import Family, family_of
from ...fuse.refine import BATCH, DistillationSet, refine, rows_needed
from ...fuse.settings import FuseSettings
from ...records import Site
from ..host.autograd import (
    autograd_on,
    checkpointed,
    frozen,
    residuals_kept,
    weights_for_autograd,
)
from ..host.branches import weight_branches
from ..host.forward import (
    choose_dtype,
    clone_for_gradients,
    conditions,
    plain_attention,
    predict,
    prediction_of,
)
from ..host.weights import merge_sites
from ..text.layerwise_model import text_options
from .coders import Coders
from .rows import empty_latent, published_sigmas, read_wide_text, samplings
from .sources import Source
from .texts import batch_size, encoded, encoded_together
from .work import Work

GUIDANCE = 4.0  # of the pictures that are noised
UNGUIDED = 4  # every so many turns the prompt is left out: guidance needs that prediction too
SKEW = 2  # 1: all time steps alike; above: more of high noise, where it is decided who is drawn
Deltas = dict[Site, torch.Tensor]  # (out, in) each


class NoisePredictor:
    """A model's prediction of the noise in latents, differentiable where the model is."""

    def __init__(self, model: Any, coder: Any, prompts: Sequence[str]):
        """coder: the CLIP that reads the prompts."""
        self.device, self.dtype = torch.device(model.load_device), choose_dtype(model, "auto")
        self.model = model.model
        options = text_options(model)
        self.options = {**options, "optimized_attention_override": plain_attention}
        made = {prompt: encoded(coder, prompt) for prompt in dict.fromkeys(prompts)}
        longest = max(cond.shape[1] for cond, _ in made.values())
        self.texts = {
            prompt: self.text_of(cond.repeat(1, longest // cond.shape[1], 1), extras)
            for prompt, (cond, extras) in made.items()
        }

    def text_of(self, cond: torch.Tensor, extras: Mapping) -> dict:
        """One prompt as `conditions` takes it."""
        kept = {k: v for k, v in extras.items() if torch.is_tensor(v)}
        return {**kept, "cross_attn": cond.to(self.device, self.dtype)}

    def leave_inference_mode(self) -> None:
        """Copies the texts into normal tensors, as autograd needs them."""
        self.texts = {
            prompt: {k: v.clone() for k, v in text.items()} for prompt, text in self.texts.items()
        }

    def __call__(
        self, latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[str]
    ) -> torch.Tensor:
        """See fuse.refine.Predict."""
        x, sigma = latents.to(self.device), sigmas.to(self.device)
        given = conditions(self.model, [self.texts[prompt] for prompt in prompts], x)
        denoised, _ = predict(self.model, x, sigma, given, self.options)
        return (x - denoised) / sigma.view(-1, *[1] * (x.ndim - 1))


def distillation_set(
    model: Any,
    coder: Any,
    source: Source,
    settings: FuseSettings,
    weight: float,
    advance: Callable[[], None],
) -> DistillationSet:
    """Noised pictures of the source's prompts, drawn by its own model, and the noise that this
    model predicts for them. coder: the source's own CLIP. advance: per step and batch."""
    drawn, count = model.clone(), rows_needed(settings.refine_steps)
    merge_sites(drawn, source.bound.model, source.name)
    read_wide_text(drawn)
    pictures = pictures_of(drawn, coder, source.refine, settings, advance)
    generator = torch.Generator().manual_seed(settings.seed)
    sampling = drawn.get_model_object("model_sampling")
    levels = sampling.sigmas.float().cpu().flip(0)
    skewed = torch.rand(count, generator=generator) ** SKEW
    sigmas = levels[(skewed * len(levels)).long()]
    noise = torch.randn(count, *pictures.shape[1:], generator=generator)
    chosen = pictures[[row % len(pictures) for row in range(count)]]
    latents = prediction_of(sampling, "refining a fusion").noised(chosen, noise, sigmas)
    prompts = tuple(prompt_of(source, row) for row in range(count))
    teacher, targets = NoisePredictor(drawn, coder, (*source.refine, "")), []
    comfy.model_management.load_models_gpu([drawn])
    for first in range(0, count, BATCH):
        few = slice(first, first + BATCH)
        targets.append(teacher(latents[few], sigmas[few], prompts[few]).cpu())
        advance()
    return DistillationSet(source.name, latents, sigmas, prompts, torch.cat(targets), weight)


def prompt_of(source: Source, row: int) -> str:
    """Of a row of the distillation set: its picture's own, or none."""
    turn, place = divmod(row, len(source.refine))
    return "" if turn % UNGUIDED == 0 else source.refine[place]


def pictures_of(
    drawn: Any,
    coder: Any,
    prompts: Sequence[str],
    settings: FuseSettings,
    advance: Callable[[], None],
) -> torch.Tensor:
    """A guided sampling of each prompt: (prompts, channels, h, w) on the CPU, in the model's
    scale."""
    family, _ = family_of(drawn.model.model_config.unet_config)
    blank = empty_latent(drawn, family, len(prompts), settings)
    noise, made = comfy.sample.prepare_noise(blank, settings.seed), []
    for first in range(0, len(blank), batch_size(family)):
        few = slice(first, first + batch_size(family))
        made.append(
            comfy.sample.sample_custom(
                drawn,
                noise[few],
                GUIDANCE,
                comfy.samplers.ksampler("euler"),
                published_sigmas(drawn, settings.steps),
                [encoded_together(coder, prompts[few])],
                [encoded_together(coder, [""] * len(noise[few]))],
                blank[few],
                callback=lambda *args: advance(),
                disable_pbar=True,
            )
        )
    return drawn.model.process_latent_in(torch.cat(made)).float().cpu()


@contextmanager
def differentiable(
    model: Any, coder: Any, prompts: Sequence[str], deltas: Deltas
) -> Iterator[tuple[NoisePredictor, Deltas]]:
    """For a `with` block: a predictor of the model with deltas (float32 leaves on the model's
    device), and these. coder: the fused CLIP. When it closes, MODEL is bit for bit as before.

    On a GPU the blocks are computed a second time in the backward pass, to save memory.
    """
    model = clone_for_gradients(model)
    predictor = NoisePredictor(model, coder, prompts)
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    network, device = model.model, predictor.device
    with ExitStack() as stack:
        for entered in (autograd_on(), weights_for_autograd(network), frozen(network)):
            stack.enter_context(entered)
        if "transformer_depth" not in network.model_config.unet_config:
            stack.enter_context(residuals_kept(network))
        predictor.leave_inference_mode()
        leaves = {
            site: delta.to(device, torch.float32, copy=True).requires_grad_()
            for site, delta in deltas.items()
        }
        stack.enter_context(weight_branches(network, leaves))
        if not comfy.model_management.is_device_cpu(device):
            stack.enter_context(checkpointed(network))
        yield predictor, leaves


def refine_deltas(
    model: Any,
    coders: Coders,
    learners: Sequence[tuple[Source, float]],
    deltas: Deltas,
    settings: FuseSettings,
    work: Work,
) -> tuple[Deltas, dict[str, tuple[float, float]]]:
    """The model's fused deltas, refined, and each source's error before and after.

    learners: with the weight of each. What is done is told to `work`, which may raise to cancel.
    """
    if not settings.refine_steps or not deltas:
        return deltas, {}

    def advance(what: str) -> None:
        work.say(what)
        work.advance()

    with work.timed("refining"):
        sets = [
            distillation_set(
                model,
                coders.own(source),
                source,
                settings,
                weight,
                partial(advance, f"refining: drawing {source.name}"),
            )
            for source, weight in learners
        ]
        prompts = ["", *(prompt for source, _ in learners for prompt in source.refine)]
        with differentiable(model, coders.fused, prompts, deltas) as (pupil, leaves):
            half, steps = pupil.dtype == torch.float16, settings.refine_steps
            errors = refine(pupil, leaves, sets, steps, settings.seed, advance, half)
            return {site: leaf.detach().cpu() for site, leaf in leaves.items()}, errors


def work_of(settings: FuseSettings, sources: Sequence[Source], family: Family) -> int:
    """Units of work of refine_deltas."""
    if not settings.refine_steps:
        return 0
    batches = -(-rows_needed(settings.refine_steps) // BATCH)
    return sum(
        settings.steps * samplings(source.refine, family) + batches + 2 + settings.refine_steps
        for source in sources
    )
