"""Refinement of a fusion on ComfyUI's own models: the concepts' own predictions, and gradients for
the fused weights.

One model in memory at any time: first each concept's own, of which only predictions are kept, then
the base model with the fused deltas beside its weights.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ...families.unet import architecture_of
from ...fuse.refine import BATCH, Lessons, refine, rows_needed
from ...fuse.settings import FuseSettings
from ...text.layerwise import split_layers
from ..host.autograd import autograd_on, checkpointed, frozen, weights_for_autograd
from ..host.branches import weight_branches
from ..host.forward import choose_dtype, clone_for_gradients, plain_attention
from ..host.weights import add_deltas
from ..text.layerwise_model import LayerwiseText, add_layerwise_text, with_first_patch
from .rows import (
    TOGETHER,
    Deltas,
    Subject,
    encoded_together,
    published_sigmas,
    samplings,
)

GUIDANCE = 4.0  # of the pictures that are noised
UNGUIDED = 4  # every so many turns the prompt is left out: guidance needs that prediction too
SKEW = 2  # 1: all time steps alike; above: more of high noise, where it is decided who is drawn


class NoisePredictor:
    """A model's prediction of the noise in latents, differentiable where the model is."""

    def __init__(self, model, coder, prompts: Sequence[str]):
        """coder: the CLIP that reads the prompts."""
        config = model.model.model_config.unet_config
        self.device, self.dtype = torch.device(model.load_device), choose_dtype(model, "auto")
        self.model, self.sampling = model.model, model.get_model_object("model_sampling")
        self.layerwise = LayerwiseText(architecture_of(config).layers, config["context_dim"])
        self.rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        self.texts = encoded_together(coder, list(self.rows))[0].to(self.device, self.dtype)

    def __call__(self, latents, sigmas, prompts) -> torch.Tensor:
        """See fuse.refine.Predict."""
        x, sigma = latents.to(self.device), sigmas.to(self.device)
        wide = self.texts[[self.rows[prompt] for prompt in prompts]]
        texts = split_layers(wide, len(self.layerwise.layers))
        options: dict = {"optimized_attention_override": plain_attention}
        options = with_first_patch(options, "attn2_patch", self.layerwise.pick(texts))
        scaled = self.sampling.calculate_input(sigma, x).to(self.dtype)
        t = self.sampling.timestep(sigma).float()
        output = self.model.diffusion_model(
            scaled, t, context=texts[0], transformer_options=options
        )
        denoised = self.sampling.calculate_denoised(sigma, output.float(), x)
        return (x - denoised) / sigma.view(-1, 1, 1, 1)


def lessons_of(
    model,
    coder,
    subject: Subject,
    key_of,
    settings: FuseSettings,
    count: int,
    weight: float,
    advance: Callable[[], None],
) -> Lessons:
    """`count` noised pictures of the subject's prompts, drawn by its own model, and the noise that
    this model predicts for them. coder: the subject's own CLIP. advance: per step and batch."""
    drawn = model.clone()
    add_deltas(drawn, subject.unet, key_of, subject.strength_model, subject.name)
    add_layerwise_text(drawn)
    pictures = pictures_of(drawn, coder, subject.refined, settings, advance)
    generator = torch.Generator().manual_seed(settings.seed)
    levels = drawn.get_model_object("model_sampling").sigmas.float().cpu().flip(0)
    skewed = torch.rand(count, generator=generator) ** SKEW
    sigmas = levels[(skewed * len(levels)).long()]
    noise = torch.randn(count, *pictures.shape[1:], generator=generator)
    latents = pictures[[row % len(pictures) for row in range(count)]]
    latents = latents + sigmas.view(-1, 1, 1, 1) * noise
    prompts = tuple(prompt_of(subject, row) for row in range(count))
    predict, targets = NoisePredictor(drawn, coder, (*subject.refined, "")), []
    comfy.model_management.load_models_gpu([drawn])
    for first in range(0, count, BATCH):
        few = slice(first, first + BATCH)
        targets.append(predict(latents[few], sigmas[few], prompts[few]).cpu())
        advance()
    return Lessons(subject.name, latents, sigmas, prompts, torch.cat(targets), weight)


def prompt_of(subject: Subject, row: int) -> str:
    """Of the row-th lesson: its picture's own, or none."""
    turn, place = divmod(row, len(subject.refined))
    return "" if turn % UNGUIDED == 0 else subject.refined[place]


def pictures_of(drawn, coder, prompts: Sequence[str], settings: FuseSettings, advance):
    """A guided sampling of each prompt: (prompts, 4, h, w) on the CPU, in the model's scale."""
    blank = torch.zeros(len(prompts), 4, settings.height // 8, settings.width // 8)
    noise, made = comfy.sample.prepare_noise(blank, settings.seed), []
    for first in range(0, len(blank), TOGETHER):
        few = slice(first, first + TOGETHER)
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
    model, coder, prompts: Sequence[str], deltas: Deltas, key_of
) -> Iterator[tuple[NoisePredictor, Deltas]]:
    """For a `with` block: a predictor of the model with deltas (float32 leaves on the model's
    device), and these. coder: the fused CLIP. When it closes, MODEL is bit for bit as before.

    On a GPU the blocks are computed a second time in the backward pass, to save memory.
    """
    model = clone_for_gradients(model)
    predictor = NoisePredictor(model, coder, prompts)
    comfy.model_management.load_models_gpu([model], force_full_load=True)
    unet, device = model.model, predictor.device
    with ExitStack() as stack:
        for entered in (autograd_on(), weights_for_autograd(unet), frozen(unet)):
            stack.enter_context(entered)
        predictor.texts = predictor.texts.clone()  # no inference tensor
        leaves = {
            name: delta.to(device, torch.float32, copy=True).requires_grad_()
            for name, delta in deltas.items()
        }
        stack.enter_context(weight_branches(unet, leaves, key_of))
        if not comfy.model_management.is_device_cpu(device):
            stack.enter_context(checkpointed(unet))
        yield predictor, leaves


def refine_deltas(
    model,
    coder,
    coder_of: Callable[[Subject], object],
    subjects: Sequence[tuple[Subject, float]],
    deltas: Deltas,
    key_of,
    settings: FuseSettings,
    advance: Callable[[str], None],
) -> tuple[Deltas, dict[str, tuple[float, float]]]:
    """The UNet's fused deltas, refined, and each subject's error before and after.

    coder: the fused CLIP; coder_of: a subject's own. subjects: with the weight of each; their
    prompts are `refined`. advance(what was done), work_of times; may raise to cancel.
    """
    count = rows_needed(settings.refine_steps)
    lessons = [
        lessons_of(
            model,
            coder_of(subject),
            subject,
            key_of,
            settings,
            count,
            weight,
            partial(advance, f"refining: drawing {subject.name}"),
        )
        for subject, weight in subjects
    ]
    prompts = ["", *(prompt for subject, _ in subjects for prompt in subject.refined)]
    with differentiable(model, coder, prompts, deltas, key_of) as (predict, leaves):
        half = predict.dtype == torch.float16
        errors = refine(
            predict, leaves, lessons, settings.refine_steps, settings.seed, advance, half
        )
        return {name: leaf.detach().cpu() for name, leaf in leaves.items()}, errors


def work_of(settings: FuseSettings, subjects: Sequence[Subject]) -> int:
    """How many times refine_deltas calls `advance`."""
    if not settings.refine_steps:
        return 0
    batches = -(-rows_needed(settings.refine_steps) // BATCH)
    return sum(
        settings.steps * samplings(subject.refined) + batches + 2 + settings.refine_steps
        for subject in subjects
    )
