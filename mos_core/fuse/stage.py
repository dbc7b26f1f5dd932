"""One stage of a fusion: the layers that are solved together, from all concepts' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..deltas import Delta
from ..errors import FuseError
from ..families.family import OTHERS
from ..records import Site
from .settings import FuseSettings
from .sketch import errors_of_concepts
from .solve import LBFGS_STEPS, LBFGS_STEPS_SPATIAL, SOLVERS, Solution, SolveOptions
from .sums import TOTAL, Gram, InputSums, LayerSums


@dataclass(frozen=True)
class Layer:
    """A weight that is to be fused.

    group: layers of one group see the same input, and so share one Gram matrix; shape: (out, in)
    of the weight as a matrix; stage: of `families.family`.
    """

    site: Site
    group: str
    shape: tuple[int, int]
    stage: str


@dataclass(frozen=True, eq=False)
class LayerReport:
    """Mean squared error of a layer against what the concepts ask of it.

    errors: (concepts, concepts + 2), squared errors; see errors_of_concepts. rows: how many inputs
    it was fused from, of all concepts together.
    """

    layer: Layer
    before: float
    after: float
    errors: torch.Tensor
    rows: int = 0

    @property
    def few_rows(self) -> bool:
        """Whether some directions of its input were in no row: there it stays the base model's."""
        return 0 < self.rows < self.layer.shape[1]


class StageSums:
    """Collects the sums of its layers concept by concept, then solves them one by one.

    dtype: of products, see Gram. device: where the sums live, None for the rows' own.
    """

    def __init__(
        self, layers: Sequence[Layer], dtype: torch.dtype, device: torch.device | None = None
    ):
        self.layers = tuple(layers)
        self.dtype = dtype
        self.device = device
        self.inputs: dict[str, InputSums] = {}  # by input group
        self.sums: dict[Layer, LayerSums] = {}
        self.asked: dict[Layer, list[Delta | None]] = {layer: [] for layer in layers}
        self.inverse: tuple[str, torch.Tensor] | None = None  # of the group solved last

    def new_grams(self) -> dict[str, Gram]:
        """One empty Gram per input group, for one concept's rows."""
        groups = dict.fromkeys(layer.group for layer in self.layers)
        return {group: Gram(self.dtype, self.device) for group in groups}

    def add_concept(self, grams: Mapping[str, Gram], deltas: Mapping[Site, Delta]) -> None:
        """One concept's rows and deltas."""
        matrices: dict[str, torch.Tensor] = {}
        for layer in self.layers:
            gram = grams[layer.group]
            assert gram.matrix is not None, f"{layer.site.path} was never run"
            if layer not in self.sums:
                fresh = LayerSums.empty(*layer.shape, gram.matrix.device)
                fresh.inputs = self.inputs.setdefault(layer.group, fresh.inputs)
                self.sums[layer] = fresh
            if layer.group not in matrices:
                matrices[layer.group] = self.inputs[layer.group].add(gram)
            delta = deltas.get(layer.site)
            self.sums[layer].add_target(matrices[layer.group], delta)
            self.asked[layer].append(delta)

    def add_anchor(self, grams: Mapping[str, Gram], weight: float) -> None:
        """The base model's own rows, which are to stay as they are; weight 1: as one concept."""
        for group, inputs in self.inputs.items():
            inputs.add_anchor(grams[group], weight)

    def solve(self, layer: Layer, settings: FuseSettings) -> tuple[torch.Tensor, LayerReport]:
        """The layer's fused delta (out, in), float32 on the CPU; its sums are let go."""
        sums, asked = self.sums.pop(layer), self.asked.pop(layer)
        if not bool(torch.isfinite(sums.cross).all() & torch.isfinite(sums.inputs.gram).all()):
            raise FuseError(
                f"the sums of '{layer.site.path}' hold values that are not finite numbers: a "
                "concept draws no picture on this model; try each alone, and leave out the one "
                "that fails"
            )
        solved = self.solution(layer, sums, asked, settings)
        errors = errors_of_concepts(sums.inputs.sketches, asked, solved.delta, solved.inverse)
        before, after = sums.loss(torch.zeros_like(solved.delta)), sums.loss(solved.delta)
        return solved.delta.float().cpu(), LayerReport(
            layer, before, after, errors, sums.inputs.rows
        )

    def solution(
        self,
        layer: Layer,
        sums: LayerSums,
        asked: Sequence[Delta | None],
        settings: FuseSettings,
    ) -> Solution:
        """By the solver of the settings; layers of one group share its inverse."""
        known = self.inverse[1] if self.inverse and self.inverse[0] == layer.group else None
        steps = LBFGS_STEPS_SPATIAL if layer.stage == OTHERS else LBFGS_STEPS
        options = SolveOptions(settings.ridge, steps, known)
        solved = SOLVERS[settings.solver](sums, asked, options)
        if solved.inverse is not None:
            self.inverse = layer.group, solved.inverse
        return solved


def sums_bytes(layers: Sequence[Layer]) -> int:
    """Bytes of these layers' sums while one concept is collected: G of all concepts and of one,
    and R."""
    widths = {layer.group: layer.shape[1] for layer in layers}
    grams = 2 * sum(width**2 for width in widths.values())
    cross = sum(out * width for out, width in (layer.shape for layer in layers))
    return (grams + cross) * TOTAL.itemsize


def portions(layers: Sequence[Layer], limit: int) -> list[list[Layer]]:
    """The layers in portions whose sums take at most `limit` bytes, whole groups, in order. A
    group that is larger by itself is a portion of its own."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.group, []).append(layer)
    made: list[list[Layer]] = []
    for group in groups.values():
        if made and sums_bytes([*made[-1], *group]) <= limit:
            made[-1] += group
        else:
            made.append(list(group))
    return made
