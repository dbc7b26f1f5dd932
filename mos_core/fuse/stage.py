"""One stage of a fusion: the layers that are solved together, from all concepts' rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..records import LowRank
from .settings import FuseSettings
from .solve import LBFGS_STEPS, LBFGS_STEPS_SPATIAL, solve_exact, solve_lbfgs, solve_sum
from .sums import Gram, LayerSums


@dataclass(frozen=True)
class LayerReport:
    """Mean squared error of a layer against what the concepts ask of it."""

    module: str
    before: float
    after: float


def input_group(module: str) -> str:
    """Modules of one group see the same input, and so share one Gram matrix."""
    path, _, name = module.rpartition(".")
    if name in ("q_proj", "k_proj", "v_proj") or (path.endswith("attn1") and name != "0"):
        return f"{path}.qkv"
    if path.endswith("attn2") and name in ("to_k", "to_v"):
        return f"{path}.kv"
    return module


class Stage:
    """Collects the sums of its modules concept by concept, then solves them one by one."""

    def __init__(self, modules: Sequence[str], dtype: torch.dtype, spatial: bool):
        self.modules = tuple(modules)
        self.dtype = dtype
        self.spatial = spatial
        self.sums: dict[str, LayerSums] = {}
        self.merged: dict[str, list] = {m: [] for m in modules}

    def new_grams(self) -> dict[str, Gram]:
        """One empty Gram per input group, for one concept's rows."""
        return {input_group(module): Gram(self.dtype) for module in self.modules}

    def add_concept(
        self, grams: Mapping[str, Gram], factors: Mapping[str, LowRank], strength: float, shapes
    ) -> None:
        """One concept's rows and deltas. shapes: module -> (out, in, ...)."""
        for module in self.modules:
            gram = grams[input_group(module)]
            assert gram.matrix is not None, f"{module} was never run"
            pair = factors.get(module)
            delta = None if pair is None else strength * pair.delta().flatten(1)
            device = gram.matrix.device
            if module not in self.sums:
                out, width = shapes[module][:2]
                self.sums[module] = LayerSums.empty(out, width, device)
            self.sums[module].add(gram, None if delta is None else delta.to(device))
            if delta is not None:
                self.merged[module].append((1.0, delta))

    def solve(self, module: str, settings: FuseSettings) -> tuple[torch.Tensor, LayerReport]:
        """The module's fused delta (out, in), float32 on the CPU; its sums are let go."""
        sums = self.sums.pop(module)
        if settings.solver == "exact":
            delta = solve_exact(sums, settings.ridge)
        elif settings.solver == "lbfgs":
            steps = LBFGS_STEPS_SPATIAL if self.spatial else LBFGS_STEPS
            delta = solve_lbfgs(sums, steps, settings.ridge)
        else:
            delta = solve_sum(self.merged[module]).to(sums.gram)
        report = LayerReport(module, sums.loss(torch.zeros_like(delta)), sums.loss(delta))
        return delta.float().cpu(), report
