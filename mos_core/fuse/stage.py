"""One stage of a fusion: the layers that are solved together, from all concepts' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..errors import FuseError
from ..records import LowRank
from .settings import FuseSettings
from .sketch import errors_of_concepts
from .solve import (
    LBFGS_STEPS,
    LBFGS_STEPS_SPATIAL,
    inverse_of,
    solve_lbfgs,
    solve_sum,
)
from .sums import Gram, InputSums, LayerSums


@dataclass(frozen=True)
class LayerReport:
    """Mean squared error of a layer against what the concepts ask of it.

    errors: (concepts, concepts + 2), squared errors; see errors_of_concepts.
    """

    module: str
    before: float
    after: float
    errors: torch.Tensor


def input_group(module: str) -> str:
    """Modules of one group see the same input, and so share one Gram matrix."""
    path, _, name = module.rpartition(".")
    if name in ("q_proj", "k_proj", "v_proj") or (path.endswith("attn1") and name != "0"):
        return f"{path}.qkv"
    if path.endswith("attn2") and name in ("to_k", "to_v"):
        return f"{path}.kv"
    return module


class Stage:
    """Collects the sums of its modules concept by concept, then solves them one by one.

    device: where the sums live, None for the rows' own.
    """

    def __init__(
        self,
        modules: Sequence[str],
        dtype: torch.dtype,
        spatial: bool,
        device: torch.device | None = None,
    ):
        self.modules = tuple(modules)
        self.dtype = dtype
        self.spatial = spatial
        self.device = device
        self.inputs: dict[str, InputSums] = {}  # by input group
        self.sums: dict[str, LayerSums] = {}  # by module
        self.asked: dict[str, list[tuple[float, LowRank | None]]] = {m: [] for m in modules}
        self.inverse: tuple[str, torch.Tensor] | None = None  # of the group solved last

    def new_grams(self) -> dict[str, Gram]:
        """One empty Gram per input group, for one concept's rows."""
        groups = dict.fromkeys(input_group(module) for module in self.modules)
        return {group: Gram(self.dtype, self.device) for group in groups}

    def add_concept(
        self, grams: Mapping[str, Gram], factors: Mapping[str, LowRank], strength: float, shapes
    ) -> None:
        """One concept's rows and deltas. shapes: module -> (out, in, ...)."""
        matrices = {}
        for module in self.modules:
            group = input_group(module)
            gram = grams[group]
            assert gram.matrix is not None, f"{module} was never run"
            if module not in self.sums:
                out, width = shapes[module][:2]
                fresh = LayerSums.empty(out, width, gram.matrix.device)
                fresh.inputs = self.inputs.setdefault(group, fresh.inputs)
                self.sums[module] = fresh
            if group not in matrices:
                matrices[group] = self.inputs[group].add(gram)
            pair = factors.get(module)
            self.sums[module].add_target(matrices[group], pair, strength)
            self.asked[module].append((strength, pair))

    def add_anchor(self, grams: Mapping[str, Gram], weight: float) -> None:
        """The base model's own rows, which are to stay as they are; weight 1: as one concept."""
        for group, inputs in self.inputs.items():
            inputs.add_anchor(grams[group], weight)

    def solve(self, module: str, settings: FuseSettings) -> tuple[torch.Tensor, LayerReport]:
        """The module's fused delta (out, in), float32 on the CPU; its sums are let go."""
        sums, group, asked = self.sums.pop(module), input_group(module), self.asked.pop(module)
        inverse = None
        if not bool(torch.isfinite(sums.cross).all() & torch.isfinite(sums.inputs.gram).all()):
            raise FuseError(
                f"the sums of '{module}' hold values that are not finite numbers: a concept draws "
                "no picture on this model; try each alone, and leave out the one that fails"
            )
        if settings.solver == "exact":
            if self.inverse is None or self.inverse[0] != group:
                self.inverse = group, inverse_of(sums, settings.ridge)
            inverse = self.inverse[1]
            delta = sums.cross @ inverse
        elif settings.solver == "lbfgs":
            steps = LBFGS_STEPS_SPATIAL if self.spatial else LBFGS_STEPS
            delta = solve_lbfgs(sums, steps, settings.ridge)
        else:
            delta = solve_sum(sums, asked)
        nothing = torch.zeros_like(delta)
        errors = errors_of_concepts(sums.inputs.sketches, asked, delta, inverse)
        report = LayerReport(module, sums.loss(nothing), sums.loss(delta), errors)
        return delta.float().cpu(), report
