"""Adaptive regions: boxes for the first steps of a run, silhouettes of what was drawn there after.

Wrappers on a MODEL that has regions already, inside theirs. While the boxes hold, a recorder reads
what each region's words look at; then the run goes on with each region's silhouette inside its
grown box, and the background has its cells back. The state lives for one sampling.
"""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ...compose.drawn import Drawn
from ...find.settings import FindSettings
from ...find.silhouettes import FOUND, Maps, find_places
from ...regions.region import Region, stacked
from ..find.find_regions import grown_cells
from ..find.joint_watch import TokenMaps, WatchedText, places_in
from ..find.watch import grid_for, mean_attention
from ..regional.attention import RegionalAttention
from ..regional.block import rows_of
from ..regional.joint import JointRegions
from ..regional.joint_attention import Watch
from ..regional.joint_run import ImagePlan
from ..regional.joint_texts import CallTexts
from ..regional.map_recorder import RECORDER
from ..regional.roles import POSITIVE
from ..regional.wrappers import WrappersMP, regional_of

LOG = logging.getLogger(__name__)
KEY = "mix_of_show_adapt"  # of our wrappers on a ModelPatcher


class SilhouetteRecorder:
    """A recorder as regional attention knows it: what the regions' words look at, summed.

    layers: those on the grid of the maps, by their running numbers. positions: per region, of its
    concept's tokens in its own text.
    """

    leads = False  # it watches the picture's own passes

    def __init__(
        self, layers: Sequence[int], grid: tuple[int, int], positions: Iterable[Sequence[int]]
    ):
        self.layers, self.grid = frozenset(layers), grid
        self.positions = [list(own) for own in positions]
        self.words: dict[int, torch.Tensor] = {}
        self.own: torch.Tensor | None = None
        self.weight = 0.0  # of the step; later ones see more

    def __deepcopy__(self, memo: dict) -> "SilhouetteRecorder":
        return self

    def wants(self, layer: int) -> bool:
        return layer in self.layers

    def done(self, layer: int) -> None:
        """The pass goes on: it is the picture's own."""

    def cross(self, layer: int, region: int, q: torch.Tensor, k: torch.Tensor, heads: int) -> None:
        """q: (batch, cells, inner), k: (batch, tokens, inner); the first picture counts."""
        own = [p for p in self.positions[region] if p < k.shape[1]]
        if not own or q.shape[1] != self.grid[0] * self.grid[1]:
            return
        queries, keys = (t[0].float().unflatten(-1, (heads, -1)) for t in (q, k))
        words = mean_attention(queries, keys)[:, own].mean(1)
        words = self.weight * words / words.mean().clamp(min=1e-12)
        self.words[region] = self.words.get(region, 0) + words

    def self_attention(
        self,
        layer: int,
        region: int,
        q: torch.Tensor,
        k: torch.Tensor,
        heads: int,
        allowed: torch.Tensor | None = None,
    ) -> None:
        """q, k: (batch, cells, inner). Once for all regions."""
        if region != 0 or q.shape[1] != self.grid[0] * self.grid[1]:
            return
        queries, keys = (t[0].float().unflatten(-1, (heads, -1)) for t in (q, k))
        maps = self.weight * mean_attention(queries, keys)
        self.own = maps if self.own is None else self.own + maps


class TokenRecorder(TokenMaps):
    """The same on a diffusion transformer. positions: per region, of its concept's words in its own
    text; negative ones count from its end."""

    def __init__(self, positions: Iterable[Sequence[int]]):
        super().__init__()
        self.positions = [tuple(own) for own in positions]
        self.weight = 0.0

    def __deepcopy__(self, memo: dict) -> "TokenRecorder":
        return self

    def watching(self, halves: Sequence[int], texts: CallTexts, image: ImagePlan) -> Watch | None:
        """What looks at the attentions of a call; None where it draws no positive prompt.
        halves: of each chunk of the batch."""
        if POSITIVE not in halves:
            return None
        chunk = list(halves).index(POSITIVE)
        row = rows_of(chunk, halves, len(texts.context)).start
        given, plan = texts.given[chunk], texts.padded[chunk]
        seen = []
        for number, own in enumerate(self.positions):
            length, (count, _) = given.words[number + 1][0], plan.words[number + 1]
            words = tuple((number, at) for _, at in places_in([own], length))
            if words:
                seen.append(WatchedText(plan.starts[number + 1], count, words))

        def watch(kind: str, layer: int, q: torch.Tensor, k: torch.Tensor) -> None:
            self.note(kind, q[row], k[row], image, seen)

        return watch


class Adaptation:
    """share: of the steps that the boxes hold, 0..1. say: is told what became of the regions."""

    def __init__(
        self,
        regional: RegionalAttention | JointRegions,
        share: float,
        say: Callable[[str], None],
    ):
        self.regional, self.share, self.say = regional, share, say
        self.settings = FindSettings(grow=0.35)
        self.waiting: list = []  # per sampling: (recorder, sigma from which silhouettes hold)

    def __deepcopy__(self, memo: dict) -> "Adaptation":
        return self

    def sample(
        self,
        executor: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """OUTER_SAMPLE wrapper."""
        until = float(sigmas[min(len(sigmas) - 1, round(self.share * (len(sigmas) - 1)))])
        self.waiting.append((self.recorder_for(noise.shape[-2:]), until))
        try:
            return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)
        finally:
            self.waiting.pop()

    def recorder_for(self, latent: Sequence[int]) -> SilhouetteRecorder | TokenRecorder:
        """latent: its (rows, columns)."""
        positions = [one.positions for one in self.regional.drawn]
        if isinstance(self.regional, JointRegions):
            return TokenRecorder(positions)
        grid = grid_for(*latent)
        level = _halvings(latent, grid)
        layers = [layer.index for layer in self.regional.layers if layer.level == level]
        return SilhouetteRecorder(layers, grid, positions)

    def call(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        """APPLY_MODEL wrapper: records, and changes the regions when the time has come."""
        recorder, until = self.waiting[-1] if self.waiting else (None, 0.0)
        options = kwargs.get("transformer_options") or (args[5] if len(args) > 5 else None)
        if recorder is None or options is None or options.get(RECORDER) is not None:
            return executor(*args, **kwargs)  # settled, or a pass of the guidance
        if float(args[1].max()) <= until * (1 + 1e-4):
            self.waiting[-1] = (None, 0.0)
            self.settle(recorder)
            return executor(*args, **kwargs)
        recorder.weight += 1.0
        options[RECORDER] = recorder
        try:
            return executor(*args, **kwargs)
        finally:
            options.pop(RECORDER, None)

    def settle(self, recorder: SilhouetteRecorder | TokenRecorder) -> None:
        """The run goes on in the silhouettes."""
        if self.regional.runs and recorder.words:
            regions, told = silhouettes(self.regional.drawn, recorder, self.settings)
            self.regional.runs[-1] = self.regional.run_in(regions)
            self.say(told)


def silhouettes(
    drawn: Sequence[Drawn], recorder: SilhouetteRecorder | TokenRecorder, settings: FindSettings
) -> tuple[list[Region], str]:
    """The regions, those that were found with their silhouette for a mask; and a sentence."""
    numbers = sorted(recorder.words)
    words = torch.stack([recorder.words[n] for n in numbers]).unflatten(1, recorder.grid).cpu()
    own = recorder.own
    own = None if own is None else (own / own.sum(1, keepdim=True)).cpu()
    boxes = [grown_cells(drawn[n].region, recorder.grid, settings.grow) for n in numbers]
    places = dict(zip(numbers, find_places(Maps(words, own), settings, boxes), strict=True))
    regions = [one.region for one in drawn]
    for number, place in places.items():
        if place.how == FOUND:
            old = regions[number]
            regions[number] = replace(old, box=None, mask=place.mask, in_front=())
    found = [n for n, place in places.items() if place.how == FOUND]
    kept = [drawn[n].region.name for n in range(len(drawn)) if n not in found]
    told = f"After the first steps {len(found)} of {len(drawn)} regions took on their silhouettes."
    if kept:
        told += f" Nothing was found in, and so these stayed: {', '.join(kept)}."
    return list(stacked(regions)), told


def _halvings(latent: Sequence[int], grid: tuple[int, int]) -> int:
    rows, halved = latent[0], 0
    while rows > grid[0]:
        rows, halved = -(-rows // 2), halved + 1
    return halved


def add_adaptation(patched: Any, share: float, say: Callable[[str], None] = LOG.info) -> bool:
    """Adds it to a ModelPatcher clone of ours; False where it has no regions."""
    regional = regional_of(patched)
    if not isinstance(regional, RegionalAttention | JointRegions):
        return False
    adaptation = Adaptation(regional, share, say)
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, adaptation.sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, adaptation.call)
    return True
