"""Regions on a diffusion transformer: one forward pass, texts and deltas of the regions in it.

Each region's text stands in the sequence beside the global one, with the positions and padding that
it would have alone; who sees whom is `compose/tokens.py`. A concept's deltas act on its region's
cells and on the region's own words.
"""

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from ...compose.drawn import Drawn
from ...compose.isolation import Isolation
from ...compose.tokens import TextPlan
from ...errors import RegionError
from ...families.family import ALONE_IMAGE, ALONE_TEXT, CROSS, JOINT, Family
from ...regions.region import Region
from .joint_attention import OVERRIDE, GroupedAttention
from .joint_hooks import CallRows, injected
from .joint_run import Groups, ImagePlan, JointRun
from .joint_texts import join_texts, texts_in_place
from .map_recorder import KEEP, RECORDER
from .missed import Say
from .roles import roles_of
from .wrappers import RegionalWrappers


class JointRegions(RegionalWrappers):
    """The wrappers of a diffusion transformer with regions.

    picture_layers: of PICTURE_LAYERS. placement: b of compose/placement.py.
    """

    def __init__(
        self,
        family: Family,
        drawn: Sequence[Drawn],
        isolation: Isolation,
        picture_layers: str,
        placement: float,
        say: Say,
    ):
        assert family.sequence is not None
        self.choices = isolation, picture_layers, placement
        super().__init__(lambda: JointRun(family, drawn, *self.choices), say)
        self.family, self.drawn = family, drawn
        self.sequence = family.sequence

    def run_in(self, regions: Sequence[Region]) -> JointRun:
        """What is computed for a run whose regions lie elsewhere than ours; as many."""
        drawn = [replace(one, region=own) for one, own in zip(self.drawn, regions, strict=True)]
        run = JointRun(self.family, drawn, *self.choices)
        if self.runs:
            run.texts = self.runs[-1].texts
        return run

    def note_call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: the model knows what it makes of a text."""
        if self.runs:
            self.runs[-1].texts.base = executor.class_obj
        return super().note_call(executor, *args, **kwargs)

    def run_model(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """DIFFUSION_MODEL wrapper: one call with the regions' texts and deltas."""
        given = Arguments(executor.original, args, kwargs)
        options = given["transformer_options"] or {}
        run, model = self.run_of(options), executor.class_obj
        x, context = given["x"], given["context"]
        image, multiple = plan_image(self.family, model, x, given)
        shown = [bool(part.any()) for part in run.parts(image)]
        halves = roles_of(options)
        texts = join_texts(run.texts, context, halves, x, multiple, shown)
        rows = CallRows(context.shape[0], texts.given[0], texts.padded[0], image)

        recorder, watch = options.get(RECORDER), None
        placement = 0.0 if getattr(recorder, "leads", False) else run.placed(options)

        def sees(kind: str, queries: int, keys: int) -> Groups:
            check_tokens(kind, texts.padded[0], image, queries, keys)
            return run.groups_of(kind, texts.padded, image, placement > 0, x.device, context.dtype)

        if recorder is not None:
            watch = recorder.watching(halves, texts, image)
        attention = GroupedAttention(
            sees,
            placement,
            options.get(OVERRIDE),
            watch,
            again=lambda: getattr(recorder, "replaying", False),
        )
        given["context"] = texts.context
        given["transformer_options"] = {**options, OVERRIDE: attention}
        mask = given["attention_mask"]
        if mask is not None:
            given["attention_mask"] = longer_mask(mask, context.shape[1], texts.context.shape[1])
        with ExitStack() as ours:
            stack = options.get(KEEP) or ours  # longer where blocks may be computed again
            stack.enter_context(attention.watching(model, run.attending(model)))
            stack.enter_context(texts_in_place(model, self.sequence, texts, image.cells))
            stack.enter_context(injected(model, run, rows))
            return executor(*given.args, **given.kwargs)


def plan_image(
    family: Family, model: Any, x: torch.Tensor, given: "Arguments"
) -> tuple[ImagePlan, int]:
    """The image's tokens, and the multiple to which the model pads. Raises RegionError."""
    assert family.sequence is not None
    patch = family.latent.patch
    rows, columns = (-(-side // patch) for side in x.shape[-2:])
    multiple = getattr(model, "pad_tokens_multiple", None) or 1
    if x.ndim == 5 and x.shape[2] > 1:
        raise RegionError(f"this latent has {x.shape[2]} frames; regions are for single pictures")
    references = tuple(count_tokens(r, patch) for r in references_of(model, given))
    if references and not family.sequence.references:
        raise RegionError(
            f"regions with reference pictures are not supported on {family.title}; leave "
            "out the reference pictures or the regions"
        )
    return ImagePlan(rows, columns, -(rows * columns) % multiple, references), multiple


def references_of(model: Any, given: "Arguments") -> Sequence[torch.Tensor]:
    """The reference pictures that the model will look at; some do only if told how."""
    silent = getattr(model, "default_ref_method", "") is None
    if silent and given["ref_latents_method"] is None:
        return ()
    return given["ref_latents"] or ()


def count_tokens(latent: torch.Tensor, patch: int) -> int:
    """Tokens of a latent (batch, channels, rows, columns), or with frames before the rows."""
    frames = latent.shape[2] if latent.ndim == 5 else 1
    return frames * -(-latent.shape[-2] // patch) * -(-latent.shape[-1] // patch)


def check_tokens(kind: str, plan: TextPlan, image: ImagePlan, queries: int, keys: int) -> None:
    """Raises RegionError if an attention has other tokens than were planned."""
    text, both = plan.total, plan.total + image.total
    planned = {
        ALONE_TEXT: (text, text),
        ALONE_IMAGE: (image.total, image.total),
        CROSS: (image.total, text),
        JOINT: (both, both),
    }[kind]
    if planned != (queries, keys):
        raise RegionError(
            f"an attention has {queries} queries and {keys} keys where regions expect "
            f"{planned[0]} and {planned[1]}. Another node may merge or cut tokens: take it out, or "
            "the regions"
        )


def longer_mask(mask: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """A mask (..., tokens) of the text's tokens that lets the added ones through."""
    if mask.shape[-1] != before:
        raise RegionError(
            "this conditioning has an attention mask of its own (from a style or reference node), "
            "which does not go together with regions; leave out that node or the regions"
        )
    free = 0.0 if mask.is_floating_point() else 1
    return torch.nn.functional.pad(mask, (0, after - before), value=free)


class Arguments:
    """The arguments of a model's forward pass by name, whatever their order."""

    def __init__(self, function: Callable, args: tuple, kwargs: dict):
        self.names = names_of(getattr(function, "__func__", function))
        self.args = list(args)
        self.kwargs = dict(kwargs)

    def __getitem__(self, name: str) -> Any:
        at = self._at(name)
        return self.kwargs.get(name) if at is None else self.args[at]

    def __setitem__(self, name: str, value: Any) -> None:
        at = self._at(name)
        if at is None:
            self.kwargs[name] = value
        else:
            self.args[at] = value

    def _at(self, name: str) -> int | None:
        at = self.names.index(name) if name in self.names else None
        return at if at is not None and at < len(self.args) else None


@lru_cache
def names_of(function: Callable) -> tuple[str, ...]:
    """The parameters of a method, in order, without `self`."""
    return tuple(inspect.signature(function).parameters)[1:]
