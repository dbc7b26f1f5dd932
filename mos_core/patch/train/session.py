"""Training on ComfyUI's own models: a `train.session.TrainSession`, open for a `with` block.

When it closes, MODEL and CLIP are bit for bit as before.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import comfy.k_diffusion.sampling
import comfy.ldm.modules.attention
import comfy.model_management
import comfy.samplers
import torch

from ...families import family_of
from ...train.loss import token_maps
from ...train.pictures import Frame
from ...train.session import StopTraining, Texts
from ...train.trainable import TrainableConcept
from ..host.autograd import autograd_on, checkpointed, frozen, residuals_kept, weights_for_autograd
from ..host.branches import lora_branches
from ..host.forward import (
    choose_dtype,
    clone_for_gradients,
    conditions,
    plain_attention,
    predict,
    prediction_of,
)
from ..text.layerwise_model import text_options
from .text import ClipText, FixedText


class Session:
    """See train.session.TrainSession. Made by open_session."""

    def __init__(self, model: Any, clip: Any, trainable: TrainableConcept, dtype: torch.dtype):
        self.patcher = model
        self.model = model.model
        self.trainable = trainable
        self.device = torch.device(model.load_device)
        self.dtype = dtype
        self.sampling = model.get_model_object("model_sampling")
        self.prediction = prediction_of(self.sampling, "training")
        self.levels = self.sampling.sigmas.detach().float().cpu().clone()
        family, attention = family_of(self.model.model_config.unet_config)
        trained = any(encoder.learns_tokens for encoder in family.texts)
        self.text = ClipText(clip, family, trainable) if trained else FixedText(clip)
        self.options = text_options(model)
        self.blocks = [layer.key for layer in attention]

    @property
    def needs_loss_scaling(self) -> bool:
        return self.dtype == torch.float16

    def encode(self, captions: Sequence[str]) -> Texts:
        with cancels_stop():
            return self.text.encode(captions)

    def predict(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        texts: Texts,
        frames: Sequence[Frame] = (),
        record: bool = False,
    ) -> tuple[torch.Tensor, dict[tuple[int, int], list[torch.Tensor]]]:
        with cancels_stop():
            _, output, maps = self.run(x, sigma, texts, frames, record)
            return output, maps

    def run(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        texts: Texts,
        frames: Sequence[Frame] = (),
        record: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """(denoised, output, maps) of one forward pass; see TrainSession.predict."""
        maps: dict[tuple[int, int], list[torch.Tensor]] = {}
        options = {**self.options, "optimized_attention_override": plain_attention}
        if record:
            note = partial(record_maps, maps=maps, select=texts.concept_tokens.to(self.device))
            options["patches_replace"] = {"attn2": dict.fromkeys(self.blocks, note)}
        rows = rows_of(texts, frames)
        if len({row["cross_attn"].shape for row in rows}) == 1:
            given = conditions(self.model, rows, x)
            return *predict(self.model, x, sigma, given, options), maps
        passes = []  # texts of different lengths: one after the other
        for number, row in enumerate(rows):
            one = slice(number, number + 1)
            given = conditions(self.model, [row], x[one])
            passes.append(predict(self.model, x[one], sigma[one], given, options))
        denoised, output = (torch.cat(part) for part in zip(*passes, strict=True))
        return denoised, output, maps

    @torch.no_grad()
    def sample(self, prompt: str, size: int, steps: int, cfg: float, seed: int) -> torch.Tensor:
        """A preview latent (1, channels, size / 8, size / 8) in the model's scale, by Euler
        steps."""
        with cancels_stop():
            texts = self.text.encode([prompt, ""])
            sigmas = comfy.samplers.calculate_sigmas(self.sampling, "normal", steps)
            sigmas = sigmas.to(self.device)
            shape = preview_shape(self.model, size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
            noise = noise.to(self.device)
            x = self.sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise), True)

            def guided(x: torch.Tensor, sigma: torch.Tensor, **_: Any) -> torch.Tensor:
                stop_on_cancel()
                both = torch.cat([x, x])
                denoised, _, _ = self.run(both, sigma.expand(2), texts)
                return denoised[1:] + cfg * (denoised[:1] - denoised[1:])

            x = comfy.k_diffusion.sampling.sample_euler(guided, x, sigmas, disable=True)
            return x.float().cpu()


def preview_shape(model: Any, size: int) -> tuple[int, ...]:
    """(1, channels, h, w) of a square picture; (1, channels, 1, h, w) where latents have a time."""
    family, _ = family_of(model.model_config.unet_config)
    side, times = size // family.latent.pixels, [1] * (family.latent.axes - 2)
    return (1, model.latent_format.latent_channels, *times, side, side)


def rows_of(texts: Texts, frames: Sequence[Frame]) -> list[dict]:
    """Each row as a conditioning holds it; without frames, of whole pictures."""
    rows = []
    for number, text in enumerate(texts.rows):
        row = dict(text)
        if frames:
            frame = frames[number]
            row |= dict(zip(("height", "width"), frame.original, strict=True))
            row |= dict(zip(("crop_h", "crop_w"), frame.corner, strict=True))
            row |= dict(zip(("target_height", "target_width"), frame.shape, strict=True))
        rows.append(row)
    return rows


@contextmanager
def cancels_stop() -> Iterator[None]:
    """Turns ComfyUI's cancel into StopTraining, at once and inside the block."""
    try:
        comfy.model_management.throw_exception_if_processing_interrupted()
        yield
    except comfy.model_management.InterruptProcessingException:
        raise StopTraining("cancelled") from None


stop_on_cancel = comfy.model_management.throw_exception_if_processing_interrupted


def record_maps(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    extra_options: dict,
    maps: dict[tuple[int, int], list[torch.Tensor]],
    select: torch.Tensor,
) -> torch.Tensor:
    """attn2 replacement: the plain result, keeping the concept tokens' maps by grid (h, w)."""
    heads = extra_options["n_heads"]
    h, w = extra_options["activations_shape"][2:]
    maps.setdefault((h, w), []).append(token_maps(q, k, heads, select))
    return comfy.ldm.modules.attention.attention_pytorch(q, k, v, heads)


@contextmanager
def open_session(
    model: Any, clip: Any, trainable: TrainableConcept, dtype: str, checkpointing: bool
) -> Iterator[Session]:
    """Loads clones of MODEL and CLIP fully, and makes them differentiable for the `with` block."""
    compute = choose_dtype(model, dtype)
    model = clone_for_gradients(model)
    given, clip = clip, clip.clone()
    clip.patcher = clone_for_gradients(given.patcher)  # a child of the given one, which lives on
    if compute != model.model.get_dtype():
        model.set_model_compute_dtype(compute)
    comfy.model_management.load_models_gpu([model, clip.patcher], force_full_load=True)
    unet, text = model.model, clip.cond_stage_model
    device = torch.device(model.load_device)
    kept = (text,) if "transformer_depth" in unet.model_config.unet_config else (text, unet)
    with (
        autograd_on(),
        weights_for_autograd(unet, text),
        frozen(unet, text),
        residuals_kept(*kept),
        lora_branches(unet, trainable.at_sites(text=False)),
        lora_branches(text, trainable.at_sites(text=True)),
        checkpointed(unet, text) if checkpointing else nullcontext(),
    ):
        session = Session(model, clip, trainable, compute)
        for parameter in trainable.parameters().values():
            parameter.data = parameter.data.to(device)
        yield session
