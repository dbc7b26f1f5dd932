"""Gradient fusion on ComfyUI's own models, in the published order (Mix-of-Show, section 3.3).

One model in memory: a concept's deltas are ComfyUI weight patches of a clone, put on and taken off
by ComfyUI itself.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import comfy.model_management
import torch

from ...errors import FuseError
from ...families.unet import Architecture, architecture_of, comfy_text_key, comfy_unet_key
from ...fuse.report import describe_fusion, lost_shares
from ...fuse.settings import FuseSettings
from ...fuse.stage import LayerReport, Stage
from ...fuse.sums_file import read_sums, write_sums
from ...records import Concepts, Fused
from ..apply import apply_to_clip
from ..host.branches import shape_of
from ..host.weights import add_deltas, add_full_deltas
from ..text.layerwise_clip import add_vocabulary, vocabulary_of
from .fused import fingerprint
from .kept_sums import base_of, sums_path
from .refine import refine_deltas, work_of
from .rows import (
    Deltas,
    Subject,
    base_subject,
    is_key_value,
    key_value_rows,
    samplings,
    spatial_rows,
    subject_of,
    text_rows,
)
from .sums_place import dtype_of_sums, place_of_sums, sums_bytes


def fuse_concepts(
    model,
    clip,
    concepts: Concepts,
    settings: FuseSettings,
    on_progress: Callable[[int, int], None],
    noises: Sequence[torch.Tensor] | None = None,
    sums_folder: Path | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> tuple[Fused, str]:
    """The concepts fused, and a report in words.

    on_progress(done, total) after every unit of work; may raise to cancel, which leaves MODEL and
    CLIP as they were. noises: start noise per concept (1, 4, h, w), for tests. sums_folder: where
    sums are kept with the setting reuse_sums. on_text(what is being done), now and then.
    """
    settings.check()
    if not concepts:
        raise FuseError("there are no concepts to fuse; connect Load ED-LoRA")
    fusion = Fusion(model, clip, concepts, settings, on_progress, sums_folder, on_text)
    with torch.no_grad():
        text = fusion.fuse_text()
        coder = fusion.coder_with(text)
        unet = fusion.fuse_keys_values(coder)
        unet |= fusion.fuse_spatial(coder, unet, noises)
        unet = fusion.refine(coder, unet)
    names = [entry.concept.name for entry in concepts]
    fused = Fused(
        tuple(entry.concept.without_deltas() for entry in concepts),
        as_stored(text, clip.patcher),
        as_stored(unet, model),
        fusion.architecture.name,
        fingerprint(model, clip, text, unet),
        {
            **settings.as_metadata(),
            "strengths": [[entry.strength_model, entry.strength_clip] for entry in concepts],
            "loss": {r.module: [r.before, r.after] for r in fusion.reports},
            "lost": lost_shares(fusion.reports, names),
            "refined": {name: list(errors) for name, errors in fusion.refined.items()},
        },
    )
    return fused, describe_fusion(fusion.reports, fusion.seconds, names, fusion.refined)


def as_stored(deltas: Deltas, patcher) -> Deltas:
    """In fp16 for a model in half precision: what is applied is what will be saved."""
    half = patcher.model_dtype() not in (None, torch.float32)
    return {m: d.half() if half and d.abs().max() < 6e4 else d for m, d in deltas.items()}


class Fusion:
    """The stages of one fusion; see fuse_concepts."""

    def __init__(self, model, clip, concepts, settings, on_progress, sums_folder, on_text):
        self.model, self.clip, self.concepts, self.settings = model, clip, concepts, settings
        self.architecture: Architecture = architecture_of(model.model.model_config.unet_config)
        self.unet_key = partial(comfy_unet_key, architecture=self.architecture)
        silent = tuple(replace(entry, strength_clip=0.0) for entry in concepts)
        self.vocabulary = vocabulary_of(apply_to_clip(clip, silent))
        self.subjects = [subject_of(entry, settings, i) for i, entry in enumerate(concepts)]
        self.base = base_subject(settings, len(concepts))
        text = union(c.concept.text for c in concepts)
        unet = union(c.concept.unet for c in concepts)
        self.text_modules = text
        self.key_value_modules = [m for m in unet if is_key_value(m)]
        self.spatial_modules = [m for m in unet if not is_key_value(m)]
        self.all_tokens = settings.text_rows == "all tokens"
        self.reports: list[LayerReport] = []
        self.done = 0
        layers = len(text) + len(unet)
        run = [*self.subjects, *([self.base] if settings.anchor else [])]
        self.total = layers + sum(2 + settings.steps * samplings(s.drawn) for s in run)
        self.total += work_of(settings, [subject for subject, _ in self.taught])
        self.sums_folder = sums_folder if settings.reuse_sums else None
        self.base_hash = base_of(model, clip) if self.sums_folder else None
        self.reused = 0
        self.refined: dict[str, tuple[float, float]] = {}
        self.on_progress, self.on_text = on_progress, on_text
        self.seconds = {"text encoder": 0.0, "sampling": 0.0, "solving": 0.0, "refining": 0.0}

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[what] += time.monotonic() - begun

    def advance(self, count: int = 1) -> None:
        self.done += count
        self.on_progress(self.done, self.total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    def coder_with(self, text: Deltas):
        """A clone of the CLIP with these deltas, knowing every concept token."""
        coder = self.clip.clone()
        add_vocabulary(coder, self.vocabulary)
        add_full_deltas(coder.patcher, text, comfy_text_key, "the fused text encoder")
        return coder

    def coder_for(self, subject: Subject, fused):
        """The fused CLIP, as published; the concept's own where its sums are to be kept."""
        return self.own_coder(subject) if self.settings.reuse_sums else fused

    def own_coder(self, subject: Subject):
        """The CLIP of this concept alone, knowing every concept's tokens."""
        own, strength = self.coder_with({}), subject.strength_clip
        add_deltas(own.patcher, subject.text, comfy_text_key, strength, subject.name)
        return own

    def kept(self, name: str, stage: Stage, subject: Subject, rows):
        """The subject's sums from disk if they are there; else from a run, kept for next time."""
        if self.base_hash is None or self.sums_folder is None or not stage.modules:
            return rows()
        settings = self.settings
        facts = {
            "groups": sorted(stage.new_grams()),
            "dtype": str(stage.dtype),
            "text_rows": settings.text_rows,
            "drawn": [settings.steps, settings.width, settings.height],
        }
        path = sums_path(self.sums_folder, name, subject, self.base_hash, facts)
        grams = read_sums(path, stage.device)
        if grams is None:
            grams = rows()
            write_sums(path, grams)
        else:
            self.reused += 1
            self.advance(settings.steps * samplings(subject.drawn) if name == "others" else 1)
        return grams

    def fuse_text(self) -> Deltas:
        """The text encoder."""
        stage = Stage(self.text_modules, torch.float64, spatial=False)
        plain = self.coder_with({})

        def rows(subject: Subject, number: int):
            with self.timed("text encoder"):
                grams = text_rows(plain, subject, stage, self.all_tokens)
            self.advance()
            return grams

        def asked(subject: Subject):
            return subject.text, subject.strength_clip

        return self.fuse("text", stage, rows, asked, self.clip.cond_stage_model, comfy_text_key)

    def fuse_keys_values(self, coder) -> Deltas:
        """Keys and values of cross-attention, the fused text encoder in place."""
        stage = Stage(self.key_value_modules, torch.float64, spatial=False)

        def rows(subject: Subject, number: int):
            with self.timed("text encoder"):
                grams = key_value_rows(
                    self.coder_for(subject, coder),
                    subject,
                    stage,
                    self.architecture,
                    self.all_tokens,
                )
            self.advance()
            return grams

        def asked(subject: Subject):
            return subject.unet, subject.strength_model

        return self.fuse("keys and values", stage, rows, asked, self.model.model, self.unet_key)

    def fuse_spatial(self, coder, keys_values: Deltas, noises=None) -> Deltas:
        """All other layers of the UNet, fused text encoder, keys and values in place."""
        root, modules, dtype = self.model.model, self.spatial_modules, dtype_of_sums(self.model)
        shapes = {m: shape_of(root, self.unet_key(m)) for m in modules}
        place = place_of_sums(self.model, sums_bytes(modules, shapes, dtype))
        stage = Stage(modules, dtype, spatial=True, device=place)

        def rows(subject: Subject, number: int):
            noise = None if noises is None or number >= len(noises) else noises[number]
            with self.timed("sampling"):
                grams = spatial_rows(
                    self.model,
                    self.coder_for(subject, coder),
                    subject,
                    stage,
                    self.unet_key,
                    None if self.settings.reuse_sums else keys_values,
                    self.settings,
                    self.advance,
                    noise,
                )
            return grams

        def asked(subject: Subject):
            return subject.spatial, subject.strength_model

        if not stage.modules:
            return {}
        return self.fuse("others", stage, rows, asked, self.model.model, self.unet_key)

    @property
    def taught(self) -> list[tuple[Subject, float]]:
        """Who takes part in the refinement, with weights: the concepts, and the base model as one
        more. One concept alone is to stay that concept, so the base model needs an anchor then."""
        weight = self.settings.anchor or float(len(self.subjects) > 1)
        concepts = [(subject, 1.0) for subject in self.subjects]
        return [*concepts, (self.base, weight)] if weight else concepts

    def refine(self, coder, unet: Deltas) -> Deltas:
        """The UNet's deltas, end to end towards what each subject's own model predicts."""
        if not self.settings.refine_steps or not unet:
            return unet

        def advance(what: str) -> None:
            self.on_text(what)
            self.advance()

        with self.timed("refining"):
            unet, self.refined = refine_deltas(
                self.model,
                coder,
                self.own_coder,
                self.taught,
                unet,
                self.unet_key,
                self.settings,
                advance,
            )
        return unet

    def fuse(self, name: str, stage: Stage, rows, asked, root, key_of) -> Deltas:
        """Sums over all subjects, then every layer's solution."""
        shapes = {m: shape_of(root, key_of(m)) for m in stage.modules}
        for number, subject in enumerate(self.subjects):
            grams = self.kept(name, stage, subject, partial(rows, subject, number))
            factors, strength = asked(subject)
            stage.add_concept(grams, factors, strength, shapes)
        if self.settings.anchor:
            last = partial(rows, self.base, len(self.subjects))
            stage.add_anchor(self.kept(name, stage, self.base, last), self.settings.anchor)
        fused = {}
        for module in stage.modules:
            with self.timed("solving"):
                fused[module], report = stage.solve(module, self.settings)
            self.reports.append(report)
            self.advance()
        return fused


def union(tables) -> list[str]:
    return list(dict.fromkeys(module for table in tables for module in table))
