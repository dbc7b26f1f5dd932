"""Gradient fusion on ComfyUI's own models, in the published order (Mix-of-Show, section 3.3).

One model in memory: a concept's deltas are ComfyUI weight patches of a clone, put on and taken off
by ComfyUI itself.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.sample
import comfy.samplers
import torch

from ..fuse.report import describe_fusion
from ..fuse.settings import DRAWN, PROMPTS, FuseError, FuseSettings
from ..fuse.stage import LayerReport, Stage, input_group
from ..layers import Architecture, architecture_of, comfy_text_key, comfy_unet_key
from ..records import Concepts, Fused
from ..text.tokenizer import concept_table
from .apply import apply_to_clip
from .deltas import add_deltas, add_full_deltas
from .fused import fingerprint
from .layer_inputs import recorded_inputs
from .layerwise_clip import add_vocabulary, vocabulary_of
from .layerwise_model import add_layerwise_text
from .lora_branches import shape_of

END_TOKEN = 49407
Deltas = dict[str, torch.Tensor]  # diffusers module name -> fused delta (out, in)


def fuse_concepts(
    model,
    clip,
    concepts: Concepts,
    settings: FuseSettings,
    on_progress: Callable[[int, int], None],
    noises: Sequence[torch.Tensor] | None = None,
) -> tuple[Fused, str]:
    """The concepts fused, and a report in words.

    on_progress(done, total) after every unit of work; may raise to cancel, which leaves MODEL and
    CLIP as they were. noises: start noise per concept (1, 4, h, w), for tests.
    """
    settings.check()
    if not concepts:
        raise FuseError("there are no concepts to fuse; connect Load ED-LoRA")
    fusion = Fusion(model, clip, concepts, settings, on_progress)
    with torch.no_grad():
        text = fusion.fuse_text()
        coder = fusion.coder_with(text)
        unet = fusion.fuse_keys_values(coder)
        unet |= fusion.fuse_spatial(coder, unet, noises)
    fused = Fused(
        tuple(replace(entry.concept, text={}, unet={}, resume=None) for entry in concepts),
        as_stored(text, clip.patcher),
        as_stored(unet, model),
        fusion.architecture.name,
        fingerprint(model, clip, text, unet),
        {
            **settings.as_metadata(),
            "strengths": [[entry.strength_model, entry.strength_clip] for entry in concepts],
            "loss": {r.module: [r.before, r.after] for r in fusion.reports},
        },
    )
    return fused, describe_fusion(fusion.reports, fusion.seconds)


def as_stored(deltas: Deltas, patcher) -> Deltas:
    """In fp16 for a model in half precision: what is applied is what will be saved."""
    half = patcher.model_dtype() not in (None, torch.float32)
    return {m: d.half() if half and d.abs().max() < 6e4 else d for m, d in deltas.items()}


class Fusion:
    """The stages of one fusion; see fuse_concepts."""

    def __init__(self, model, clip, concepts: Concepts, settings: FuseSettings, on_progress):
        self.model, self.clip, self.concepts, self.settings = model, clip, concepts, settings
        self.architecture: Architecture = architecture_of(model.model.model_config.unet_config)
        self.unet_key = partial(comfy_unet_key, architecture=self.architecture)
        silent = tuple(replace(entry, strength_clip=0.0) for entry in concepts)
        self.vocabulary = vocabulary_of(apply_to_clip(clip, silent))
        text = union(c.concept.text for c in concepts)
        unet = union(c.concept.unet for c in concepts)
        self.text_modules = text
        self.key_value_modules = [m for m in unet if is_key_value(m)]
        self.spatial_modules = [m for m in unet if not is_key_value(m)]
        self.all_tokens = settings.text_rows == "all tokens"
        self.reports: list[LayerReport] = []
        self.done = 0
        layers = len(text) + len(unet)
        self.total = layers + len(concepts) * (2 + settings.steps)
        self.on_progress = on_progress
        self.seconds = {"text encoder": 0.0, "sampling": 0.0, "solving": 0.0}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - begun

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.on_progress(self.done, self.total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def new_coder(self):
        """A clone of the CLIP that knows every token, without any text deltas."""
        coder = self.clip.clone()
        add_vocabulary(coder, self.vocabulary)
        return coder

    # --- text encoder ----------------------------------------------------------------------

    def fuse_text(self) -> Deltas:
        """Rows: all tokens of the concept's two prompts, unpadded, for all layer variants.

        With text_rows "all tokens": the padding too, which sampling attends to as well.
        """
        stage = Stage(self.text_modules, torch.float64, spatial=False)
        root = self.clip.cond_stage_model
        for entry in self.concepts:
            coder = self.new_coder()
            add_deltas(
                coder.patcher,
                entry.concept.text,
                comfy_text_key,
                entry.strength_clip,
                entry.concept.name,
            )
            grams = stage.new_grams()
            for prompt in prompts_of(entry.concept):
                tokens = coder.tokenize(prompt)
                length = None if self.all_tokens else end_position(tokens) + 1

                def unpadded(x: torch.Tensor, length=length) -> torch.Tensor:
                    return x[:, :length]

                recorded = recorded_inputs(root, stage.modules, grams, comfy_text_key, unpadded)
                with self.timed("text encoder"), recorded:
                    coder.encode_from_tokens(tokens)
            if stage.modules:
                shapes = {m: shape_of(root, comfy_text_key(m)) for m in stage.modules}
                stage.add_concept(grams, entry.concept.text, entry.strength_clip, shapes)
            self.advance()
        return self.solve(stage)

    def coder_with(self, text: Deltas):
        """The CLIP with the fused text encoder, knowing every concept token."""
        coder = self.new_coder()
        add_full_deltas(coder.patcher, text, comfy_text_key, "the fused text encoder")
        return coder

    # --- cross-attention keys and values ---------------------------------------------------

    def fuse_keys_values(self, coder) -> Deltas:
        """Rows: the fused text encoder's features of the concept tokens and the first end token.

        With text_rows "all tokens": of every token, so that one concept alone stays that concept.
        """
        stage = Stage(self.key_value_modules, torch.float64, spatial=False)
        layer_of = {
            f"{layer.diffusers}.transformer_blocks.{layer.depth}": layer.index
            for layer in self.architecture.layers
        }
        root, count = self.model.model, len(self.architecture.layers)
        for entry in self.concepts:
            grams = stage.new_grams()
            for prompt in prompts_of(entry.concept):
                tokens = coder.tokenize(prompt)
                wide = coder.encode_from_tokens(tokens)[0]  # (tokens, layers * width)
                chosen = slice(None) if self.all_tokens else positions(tokens)
                rows = wide[chosen].unflatten(-1, (count, -1))
                for group, gram in grams.items():
                    gram.add(rows[:, layer_of[group.removesuffix(".attn2.kv")]])
            if stage.modules:
                shapes = {m: shape_of(root, self.unet_key(m)) for m in stage.modules}
                stage.add_concept(grams, entry.concept.unet, entry.strength_model, shapes)
            self.advance()
        return self.solve(stage)

    # --- all other layers of the UNet ------------------------------------------------------

    def fuse_spatial(self, coder, keys_values: Deltas, noises=None) -> Deltas:
        """Rows: the layers' features over a whole sampling of the concept, without guidance."""
        stage = Stage(self.spatial_modules, torch.float64, spatial=True)
        root, settings = self.model.model, self.settings
        if not stage.modules:
            return {}
        shapes = {m: shape_of(root, self.unet_key(m)) for m in stage.modules}
        for number, entry in enumerate(self.concepts):
            drawn = self.model.clone()
            add_full_deltas(drawn, keys_values, self.unet_key, "the fused keys and values")
            own = {m: p for m, p in entry.concept.unet.items() if not is_key_value(m)}
            name, strength = entry.concept.name, entry.strength_model
            add_deltas(drawn, own, self.unet_key, strength, name)
            add_layerwise_text(drawn)
            prompt = DRAWN.format(entry.concept.trigger_words)
            positive = coder.encode_from_tokens_scheduled(coder.tokenize(prompt), show_pbar=False)
            latent = torch.zeros(1, 4, settings.height // 8, settings.width // 8)
            noise = comfy.sample.prepare_noise(latent, settings.seed + number)
            grams = stage.new_grams()
            recorded = recorded_inputs(root, stage.modules, grams, self.unet_key)
            with self.timed("sampling"), recorded:
                comfy.sample.sample_custom(
                    drawn,
                    noise if noises is None else noises[number],
                    1.0,
                    comfy.samplers.ksampler("dpmpp_2m"),
                    published_sigmas(drawn, settings.steps),
                    positive,
                    positive,
                    latent,
                    callback=lambda *args: self.advance(),
                    disable_pbar=True,
                )
            stage.add_concept(grams, own, strength, shapes)
        return self.solve(stage)

    def solve(self, stage: Stage) -> Deltas:
        fused = {}
        for module in stage.modules:
            with self.timed("solving"):
                fused[module], report = stage.solve(module, self.settings)
            self.reports.append(report)
            self.advance()
        return fused


def union(tables) -> list[str]:
    return list(dict.fromkeys(module for table in tables for module in table))


def is_key_value(module: str) -> bool:
    return input_group(module).endswith(".attn2.kv")


def prompts_of(concept) -> list[str]:
    return [prompt.format(concept.trigger_words) for prompt in PROMPTS]


def end_position(tokens: Mapping[str, list]) -> int:
    """Position of the first end token of a one-chunk prompt."""
    (chunks,) = tokens.values()
    return next(i for i, pair in enumerate(chunks[0]) if is_end(pair[0]))


def is_end(token) -> bool:
    return isinstance(token, int) and token == END_TOKEN


def positions(tokens: Mapping[str, list]) -> list[int]:
    """Positions of the concept tokens and of the first end token."""
    (chunks,) = tokens.values()
    marked = [i for i, pair in enumerate(chunks[0]) if concept_table(pair[0]) is not None]
    return [*marked, end_position(tokens)]


def published_sigmas(model, steps: int) -> torch.Tensor:
    """t = 999, 949, .. 50 for 20 steps (evenly spaced, the end left out), then 0."""
    sampling = model.get_model_object("model_sampling")
    times = torch.linspace(0, len(sampling.sigmas) - 1, steps + 1).round().long().flip(0)[:-1]
    return torch.cat([sampling.sigmas.cpu()[times], torch.zeros(1)])
