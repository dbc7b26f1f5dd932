"""What the layers of each stage of a fusion see of one source: a concept, or the base model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.sample
import comfy.samplers
import torch

from ...deltas import Delta
from ...families import Family
from ...fuse.settings import FuseSettings
from ...fuse.stage import StageSums
from ...fuse.sums import Gram
from ...records import Site
from ..host.layer_inputs import recorded_inputs
from ..host.weights import merge_sites
from ..text.layerwise_model import add_layerwise_text
from .layers import paths_of, row_group
from .sources import Source
from .texts import batch_size, encoded_together, positions, section_lengths


def text_rows(coder: Any, source: Source, sums: StageSums, all_tokens: bool) -> dict[str, Gram]:
    """Inputs of the text encoders' layers: the tokens of the prompts in every layer variant,
    unpadded unless `all_tokens`. coder: CLIP without text deltas, knowing all tokens."""
    coder = coder.clone()
    merge_sites(coder.patcher, source.bound.text, source.name)
    root, grams = coder.cond_stage_model, sums.new_grams()
    encoders = dict.fromkeys(layer.site.path.split(".")[0] for layer in sums.layers)
    with sections_noted(root, list(encoders)) as lengths:

        def unpadded(x: torch.Tensor, path: str) -> torch.Tensor:
            if all_tokens:
                return x
            known = zip(x, lengths[path.split(".")[0]], strict=False)
            return torch.cat([section[:length] for section, length in known])

        with recorded_inputs(root, paths_of(sums.layers), grams, unpadded):
            for prompt in source.text:
                coder.encode_from_tokens(coder.tokenize(prompt))
    return grams


@contextmanager
def sections_noted(root: torch.nn.Module, encoders: Sequence[str]) -> Iterator[dict]:
    """Encoder -> the unpadded length of each section that it is encoding, for a `with` block."""
    lengths: dict[str, list[int]] = {}
    with ExitStack() as stack:
        for name in encoders:

            def note(module: torch.nn.Module, args: tuple, name: str = name) -> None:
                lengths[name] = section_lengths(args[0])

            handle = getattr(root, name).register_forward_pre_hook(note)
            stack.callback(handle.remove)
        yield lengths


def key_value_rows(
    coder: Any, source: Source, sums: StageSums, rows: int, all_tokens: bool
) -> dict[str, Gram]:
    """Inputs of cross-attention's keys and values: the text encoder's features of the concept
    tokens and the first end token, of every token if `all_tokens`. rows: of coder's texts."""
    grams = sums.new_grams()
    for prompt in source.text:
        tokens = coder.tokenize(prompt)
        wide = coder.encode_from_tokens(tokens)[0]  # (tokens, rows * width)
        chosen = slice(None) if all_tokens else positions(tokens)
        texts = wide[chosen].unflatten(-1, (rows, -1))
        for row in range(rows):
            if row_group(row) in grams:
                grams[row_group(row)].add(texts[:, row])
    return grams


def picture_rows(
    model: Any,
    coder: Any,
    source: Source,
    sums: StageSums,
    deltas: Sequence[Mapping[Site, Delta]],
    family: Family,
    settings: FuseSettings,
    advance: Callable[[], None],
    noise: torch.Tensor | None = None,
) -> dict[str, Gram]:
    """Inputs of all other layers over a whole sampling of each prompt, without guidance.

    deltas: what the model is drawn with. noise: (prompts, channels, h, w) to start from, for
    tests.
    """
    drawn = model.clone()
    for table in deltas:
        merge_sites(drawn, table, source.name)
    read_wide_text(drawn)
    latent = empty_latent(model, family, len(source.picture), settings)
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, source.seed)
    grams, size = sums.new_grams(), batch_size(family)
    for first in range(0, len(source.picture), size):
        few = slice(first, first + size)
        positive = [encoded_together(coder, source.picture[few])]
        with recorded_inputs(model.model, paths_of(sums.layers), grams):
            comfy.sample.sample_custom(
                drawn,
                noise[few],
                1.0,
                comfy.samplers.ksampler("dpmpp_2m"),
                published_sigmas(drawn, settings.steps),
                positive,
                positive,
                latent[few],
                callback=lambda *args: advance(),
                disable_pbar=True,
            )
    return grams


def read_wide_text(model: Any) -> None:
    """Lets a clone of ours read layer-wise text, if it is of a family that has any."""
    if "transformer_depth" in model.model.model_config.unet_config:
        add_layerwise_text(model)


def empty_latent(model: Any, family: Family, count: int, settings: FuseSettings) -> torch.Tensor:
    """(count, channels, h, w) zeros of the settings' size; (count, channels, 1, h, w) where
    latents have a time."""
    channels, latent = model.model.latent_format.latent_channels, family.latent
    times = [1] * (latent.axes - 2)
    size = (settings.height // latent.pixels, settings.width // latent.pixels)
    return torch.zeros(count, channels, *times, *size)


def samplings(prompts: Sequence[str], family: Family) -> int:
    """How many times prompts are sampled, a few at a time."""
    return -(-len(prompts) // batch_size(family))


def published_sigmas(model: Any, steps: int) -> torch.Tensor:
    """t = 999, 949, .. 50 for 20 steps (evenly spaced, the end left out), then 0."""
    sampling = model.get_model_object("model_sampling")
    times = torch.linspace(0, len(sampling.sigmas) - 1, steps + 1).round().long().flip(0)[:-1]
    return torch.cat([sampling.sigmas.cpu()[times], torch.zeros(1)])
