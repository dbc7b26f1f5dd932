"""What regional attention computes once per sampling run: places, deltas and texts of regions.

A run ends with its sampling, so weights that are patched between two runs count.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch

from ...compose.attention import Placement, place_regions, repeat_tokens
from ...compose.drawn import Conditioning, Drawn
from ...compose.injection import (
    Bundle,
    DeltaStack,
    Gates,
    Injection,
    Single,
    make_bundles,
    make_gates,
    stack_deltas,
)
from ...compose.isolation import IsolatedGroup, Isolation, isolate, isolation_bias
from ...families import AttentionLayer
from ...families.rows import row_of_layers
from ...records import Site
from ...text.layerwise import split_layers
from .missed import Missed
from .once import once
from .roles import NEGATIVE, POSITIVE

Grid = tuple[int, int]  # rows and columns of a feature map


@dataclass(frozen=True, eq=False)
class RegionalRun:
    """The caches of one run, and what did not act in it."""

    places: "Places"
    deltas: "Deltas"
    texts: Any  # ScheduledTexts
    missed: Missed


class Places:
    """Where the regions lie on each feature map, and who sees whom there."""

    def __init__(self, drawn: Sequence[Drawn], isolation: Isolation):
        self.regions = [one.region for one in drawn]
        self.chosen = isolation

    @once
    def placement(
        self, grid: Grid, lengths: tuple[int, ...], device: torch.device, dtype: torch.dtype
    ) -> Placement:
        """lengths: text tokens of each region."""
        return place_regions(self.regions, lengths, *grid, device, dtype)

    @once
    def isolation(self, grid: Grid, device: torch.device) -> tuple[IsolatedGroup, ...]:
        """Empty where every cell sees every cell."""
        if self.chosen.mode == "off":
            return ()
        return isolate(self.chosen.members(self.regions, *grid), self.chosen.mode, device)

    @once
    def isolation_bias(self, grid: Grid, device: torch.device) -> torch.Tensor | None:
        """(cells, cells) float32, or None where every cell sees every cell."""
        groups = self.isolation(grid, device)
        if all(group.keys is None for group in groups):
            return None
        return isolation_bias(groups, grid[0] * grid[1], device)


class Deltas:
    """The concepts' deltas on the device, and where they act."""

    def __init__(self, injection: Injection):
        self.injection = injection

    @once
    def in_cross(
        self,
        members: tuple[int, ...],
        attention: str,
        part: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> DeltaStack | None:
        """The DeltaStack of a group of regions in a cross-attention; None if there is none."""
        return self.stacked(members, attention, part, device, dtype)

    def stacked(
        self,
        members: Sequence[int],
        attention: str,
        part: str,
        device: torch.device,
        dtype: torch.dtype,
    ) -> DeltaStack | None:
        """in_cross for what is asked once: it is not kept."""
        deltas = self.injection.in_cross(attention, part)
        return stack_deltas([deltas[member] for member in members], device, dtype)

    @once
    def bundles(
        self, site: Site, device: torch.device, dtype: torch.dtype
    ) -> tuple[Bundle | Single, ...]:
        return make_bundles(self.injection.elsewhere[site], device, dtype)

    @once
    def on_maps(self, site: Site, device: torch.device, dtype: torch.dtype) -> tuple[Single, ...]:
        """The deltas of a convolution or of a row per picture, each of one concept."""
        deltas = self.injection.maps.get(site) or self.injection.elsewhere[site]
        return tuple(
            Single((number,), delta.to(device, dtype))
            for number, delta in enumerate(deltas)
            if delta is not None
        )

    @once
    def gate_map(
        self, concept: int, grid: Grid, device: torch.device, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """(rows, columns): a concept's share of each cell; None where no cell is its."""
        share = self.shares(grid)[concept].unflatten(0, grid)
        return share.to(device, dtype) if bool((share > 0).any()) else None

    @once
    def shares(self, grid: Grid) -> torch.Tensor:
        """(concepts, cells), on the CPU."""
        return self.injection.shares(*grid)

    @once
    def _gates(
        self,
        concepts: tuple[int, ...],
        ranks: tuple[int, ...],
        grid: Grid,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Gates | None:
        return make_gates(concepts, ranks, self.shares(grid), device, dtype)

    def gates(
        self, bundle: Bundle | Single, grid: Grid, device: torch.device, dtype: torch.dtype
    ) -> Gates | None:
        """Shared by all layers of one feature map; None where no cell is theirs."""
        return self._gates(bundle.concepts, bundle.ranks, grid, device, dtype)


class Texts:
    """The regions' texts, and their keys and values in every cross-attention.

    layers: of the model, in running order. width: of the text that one layer reads.
    """

    def __init__(
        self, drawn: Sequence[Drawn], layers: Sequence[AttentionLayer], width: int, deltas: Deltas
    ):
        self.texts = [one.text for one in drawn]
        self.words = [one.words for one in drawn]
        self.layers, self.width = layers, width
        self.deltas = deltas

    def _own(self, region: int, role: int) -> Conditioning | None:
        text = self.texts[region]
        return {POSITIVE: text.positive, NEGATIVE: text.negative}.get(role)

    def length(self, region: int, role: int) -> int | None:
        """Tokens of a region's own text, or None where the global one stays."""
        own = self._own(region, role)
        return None if own is None else own[0][0].shape[1]

    @once
    def placed(
        self,
        region: int,
        role: int,
        length: int,
        added: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """(1, length): 1 where a region's own words stand in its text with what was added behind
        it, repeated to `length`; all 0 where it has no text of its own."""
        marks, own = torch.zeros(1, length), self.length(region, role)
        if own is not None and role == POSITIVE:
            once = torch.zeros(1, own + added)
            once[:, list(self.words[region])] = 1.0
            marks = repeat_tokens(once[..., None], length)[..., 0]
        return marks.to(device, dtype)

    @once
    def _by_layer(
        self, region: int, role: int, device: torch.device, dtype: torch.dtype
    ) -> tuple[torch.Tensor, ...] | None:
        own = self._own(region, role)
        if own is None:
            return None
        text = own[0][0].to(device, dtype)
        rows = text.shape[-1] // self.width
        row_of_layer = row_of_layers(self.layers, rows)
        assert row_of_layer is not None  # checked when the text was put on the model
        split = split_layers(text, rows)
        return tuple(split[row] for row in row_of_layer)

    @once
    def keys_values(
        self,
        region: int,
        role: int,
        layer: AttentionLayer,
        part: str,
        unet: torch.nn.Module,
        device: torch.device,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        """k or v (part: "to_k", "to_v"), (1, tokens, inner), of a region's own text in one layer,
        through the region's concept."""
        texts = self._by_layer(region, role, device, dtype)
        assert texts is not None
        text, name = texts[layer.index], attention_path(layer)
        attention = comfy.utils.get_attr(unet, name.removeprefix(PREFIX))
        rows = getattr(attention, part)(text)
        delta = self.deltas.stacked((region,), name, part, device, dtype)
        return rows if delta is None else rows + delta.on_one(text)


PREFIX = "diffusion_model."  # of everything below the UNet, in the keys of a MODEL


def attention_path(layer: AttentionLayer) -> str:
    """Of a layer's cross-attention module, as Site has it."""
    return f"{PREFIX}{layer.path}.attn2"
