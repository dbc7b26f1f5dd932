"""What regional attention computes once per sampling run: places, keys and values of regions."""

import comfy.utils
import torch

from ...compose.attention import Placement, place_regions
from ...compose.injection import Block, BlockPlace, make_blocks, place_block, stack_factors
from ...compose.isolation import IsolatedGroup, isolate, isolation_bias
from ...text.layerwise import split_layers
from .block import POSITIVE

Grid = tuple[int, int]


class RegionalRun:
    """Caches for one run; every entry's key holds the device and dtype it was made for.

    A run ends with its sampling, so weights that are patched between two runs count.
    """

    def __init__(self, attention):
        self.attention = attention
        self.regions = attention.regions.regions
        self.injection = attention.injection
        self.cache: dict[tuple, object] = {}

    def _once(self, key: tuple, make):
        if key not in self.cache:
            # Normal tensors without a graph: a guidance pass may save them for its backward pass.
            with torch.inference_mode(False), torch.no_grad():
                self.cache[key] = make()
        return self.cache[key]

    # --- places ------------------------------------------------------------------------------

    def placement(self, grid: Grid, lengths, device, dtype) -> Placement:
        return self._once(
            ("placement", grid, lengths, device, dtype),
            lambda: place_regions(self.regions, lengths, *grid, device, dtype),
        )

    def isolation(self, grid: Grid, device) -> tuple[IsolatedGroup, ...]:
        mode = self.attention.isolation
        if mode == "off":
            return ()
        return self._once(
            ("isolation", grid, device), lambda: isolate(self.regions, *grid, mode, device)
        )

    def isolation_bias(self, grid: Grid, device) -> torch.Tensor | None:
        groups = self.isolation(grid, device)
        if all(group.keys is None for group in groups):
            return None
        return self._once(
            ("bias", grid, device), lambda: isolation_bias(groups, grid[0] * grid[1], device)
        )

    # --- texts -------------------------------------------------------------------------------

    def text(self, region: int, half: int, layer: int, device, dtype) -> torch.Tensor | None:
        """(1, tokens, width) of one layer, or None where the global text stays."""
        whole = self.attention.texts[region]
        source = whole.positive if half == POSITIVE else whole.negative
        if source is None:
            return None

        def split():
            text = source.to(device, dtype)
            layers = len(self.attention.architecture.layers)
            narrow = text.shape[-1] == self.attention.width
            return (text,) * layers if narrow else split_layers(text, layers)

        return self._once(("text", region, half, device, dtype), split)[layer]

    def text_length(self, region: int, half: int) -> int | None:
        whole = self.attention.texts[region]
        source = whole.positive if half == POSITIVE else whole.negative
        return None if source is None else source.shape[1]

    def keys_values(self, region: int, half: int, layer, unet, device, dtype):
        """k and v (1, tokens, inner) of a region's text in one layer; None: the global text."""

        def project():
            text = self.text(region, half, layer.index, device, dtype)
            if text is None:
                return None
            attn2 = comfy.utils.get_attr(unet, attention_name(layer))
            return tuple(
                getattr(attn2, part)(text)
                + self.text_delta(region, layer, part, text, device, dtype)
                for part in ("to_k", "to_v")
            )

        return self._once(("kv", region, half, layer.index, device, dtype), project)

    def text_delta(self, region: int, layer, part: str, text, device, dtype):
        """What the region's concept adds to a projection of a text, or 0."""
        pair = self.cross_factors((region,), layer, part, device, dtype)
        return 0 if pair is None else text @ pair[0][0] @ pair[1][0]

    # --- deltas ------------------------------------------------------------------------------

    def cross_factors(self, members: tuple[int, ...], layer, part: str, device, dtype):
        """Stacked factors of a group of regions in a cross-attention; None if there are none."""
        if self.injection is None:
            return None

        def stack():
            name = f"{layer.diffusers}.transformer_blocks.{layer.depth}.attn2"
            factors = self.injection.cross_factors(name, part)
            return stack_factors([factors[m] for m in members], device, dtype)

        return self._once(("cross", members, layer.index, part, device, dtype), stack)

    def blocks(self, module: str, factors, device, dtype) -> tuple[Block, ...]:
        return self._once(
            ("blocks", module, device, dtype), lambda: make_blocks(factors, device, dtype)
        )

    def block_place(self, block: Block, grid: Grid, device, dtype) -> BlockPlace | None:
        def place():
            part = self._once(("part", grid), lambda: self.injection.shares(self.regions, *grid))
            return place_block(block.concepts, block.ranks, part, device, dtype)

        return self._once(("gates", block.concepts, block.ranks, grid, device, dtype), place)


def attention_name(layer) -> str:
    """Of a layer's cross-attention module, below the UNet."""
    return f"{layer.comfy}.transformer_blocks.{layer.depth}.attn2"
