"""The stages of a fusion as records, and the one way in which each of them is solved."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from ...deltas import Delta
from ...fuse.settings import FuseSettings
from ...fuse.stage import Layer, LayerReport, StageSums
from ...fuse.sums import Gram
from ...fuse.sums_file import read_sums, write_sums
from ...records import Site
from .kept_sums import sums_path
from .sources import Source
from .work import Work

Grams = dict[str, Gram]


@dataclass(frozen=True, eq=False)
class Stage:
    """Layers that are solved together, each with the results of the stages before it in place.

    name: for the kept sums. layers: as few at a time as fit (see sums_place). rows: runs a source
    and hands back what enters the layers. deltas: what a source asks of them. dtype, device: of
    the sums. ticks: units of work of one source's run.
    """

    name: str
    layers: Sequence[Layer]
    rows: Callable[[Source, StageSums], Grams]
    deltas: Callable[[Source], Mapping[Site, Delta]]
    dtype: torch.dtype
    device: torch.device | None
    ticks: Callable[[Source], int]


@dataclass(frozen=True)
class Kept:
    """Where sums are kept for other fusions; None as a folder or a base: nowhere.

    base: fingerprint of MODEL and CLIP, see kept_sums.base_of.
    """

    folder: Path | None = None
    base: str | None = None

    def of(
        self,
        stage: Stage,
        source: Source,
        sums: StageSums,
        settings: FuseSettings,
        rows: Callable[[], Grams],
        work: Work,
    ) -> Grams:
        """The source's sums from disk if they are there; else from a run, kept for next time."""
        if self.folder is None or self.base is None:
            return rows()
        facts = {
            "groups": sorted(sums.new_grams()),
            "dtype": str(stage.dtype),
            "text_rows": settings.text_rows,
            "pictures": [settings.steps, settings.width, settings.height],
        }
        path = sums_path(self.folder, stage.name, source, self.base, facts)
        grams = read_sums(path, stage.device)
        if grams is None:
            grams = rows()
            write_sums(path, grams)
        else:
            work.advance(stage.ticks(source))
        return grams


class Run(Protocol):
    """Whose rows are taken: `sources`, the concepts, and `base`, the base model as an anchor."""

    sources: tuple[Source, ...]
    base: Source


def solve_stages(
    stages: Sequence[Stage],
    run: Run,
    settings: FuseSettings,
    kept: Kept,
    work: Work,
    told: list[LayerReport],
) -> dict[Site, torch.Tensor]:
    """Sums over all sources, then every layer's solution: site -> (out, in), float32 on the CPU.
    What each layer lost is added to `told`."""
    fused: dict[Site, torch.Tensor] = {}
    for stage in stages:
        if stage.layers:
            sums = collect(stage, run, settings, kept, work)
            for layer in stage.layers:
                with work.timed("solving"):
                    fused[layer.site], report = sums.solve(layer, settings)
                told.append(report)
                work.advance()
    return fused


def collect(stage: Stage, run: Run, settings: FuseSettings, kept: Kept, work: Work) -> StageSums:
    """The stage's sums, one source after the other."""
    sums = StageSums(stage.layers, stage.dtype, stage.device)
    for source in run.sources:
        rows = partial(stage.rows, source, sums)
        grams = kept.of(stage, source, sums, settings, rows, work)
        sums.add_concept(grams, stage.deltas(source))
    if settings.anchor:
        rows = partial(stage.rows, run.base, sums)
        sums.add_anchor(kept.of(stage, run.base, sums, settings, rows, work), settings.anchor)
    return sums
