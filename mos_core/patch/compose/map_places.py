"""Which attention maps the guidance looks at: layers, resolution, and the regions' cells on it."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ...compose.cells import RegionCells, choose_level, grids_of, region_cells
from ...compose.drawn import Drawn
from ...compose.isolation import Isolation
from ...compose.settings import LEAST_CELLS, PUBLISHED_LEVEL, RESOLUTIONS, GuidanceSettings
from ...families import AttentionLayer, Family, family_of
from ...families.family import CROSS, JOINT
from ...families.rows import BLOCKS
from ..regional.joint_map_recorder import JointMapRecorder
from ..regional.map_recorder import MapRecorder

Say = Callable[[str], None]
MOST_LAYERS = 8  # of one resolution: of more, one block of each spatial transformer
# Of a transformer's layers, which differ in nothing but their depth: where words have met the
# picture, and early enough that the pass can end there. Not in the papers.
FROM, UNTIL = 0.15, 0.5


@dataclass(frozen=True, eq=False)
class MapPlaces:
    """Which attention maps are looked at, and where. layers: their running numbers. cell: side of a
    map's cell in cells of the latent. pixels: the same in pixels. grid: rows and columns of the
    maps. cells: per region, or None where it has none at this resolution. recorder: makes a new
    recorder of them."""

    layers: Sequence[int]
    cell: int
    pixels: int
    grid: tuple[int, int]
    cells: Sequence[RegionCells | None]
    recorder: Callable[[], MapRecorder]

    @property
    def known(self) -> dict[int, RegionCells]:
        """The regions that have cells."""
        return {i: own for i, own in enumerate(self.cells) if own is not None}


def choose_maps(
    base: Any,
    x: torch.Tensor,
    drawn: Sequence[Drawn],
    isolation: Isolation,
    settings: GuidanceSettings,
    say: Say,
) -> MapPlaces:
    """base: ComfyUI's BaseModel. x: (batch, channels, ..., h, w), a latent on its device. say:
    hears what becomes of a choice or a region that the maps do not have."""
    family, _ = family_of(base.model_config.unet_config)
    if family.sequence is None:
        return _on_feature_maps(base, x, drawn, settings, say)
    return _on_tokens(base, family, x, drawn, isolation, settings, say)


def _on_feature_maps(
    base: Any, x: torch.Tensor, drawn: Sequence[Drawn], settings: GuidanceSettings, say: Say
) -> MapPlaces:
    """Of a UNet."""
    config = base.model_config.unet_config
    regions = [one.region for one in drawn]
    grids = grids_of(x.shape[-2], x.shape[-1], len(config["num_res_blocks"]))
    levels = layer_levels(config)
    level = _wanted_level(regions, grids, settings, say, min(levels))
    level = _nearest_level(level, sorted(set(levels)), say)
    layers = map_layers(family_of(config)[1], levels, level)
    cells = _cells_of(regions, grids[level], 8 * 2**level, x.device, say)
    positions = [torch.tensor(one.positions, dtype=torch.long, device=x.device) for one in drawn]
    return MapPlaces(
        layers,
        2**level,
        8 * 2**level,
        grids[level],
        cells,
        lambda: MapRecorder(layers, cells, positions),
    )


def _on_tokens(
    base: Any,
    family: Family,
    x: torch.Tensor,
    drawn: Sequence[Drawn],
    isolation: Isolation,
    settings: GuidanceSettings,
    say: Say,
) -> MapPlaces:
    """Of a transformer: its tokens, or means of 2 x 2 or 4 x 4 of them."""
    assert family.sequence is not None
    regions = [one.region for one in drawn]
    latent = family.latent
    finest = int(math.log2(latent.pixels * latent.patch // 8))
    tokens = [-(-side // latent.patch) for side in x.shape[-2:]]

    def grid_of(level: int) -> tuple[int, int]:
        step = 2 ** (level - finest)
        return -(-tokens[0] // step), -(-tokens[1] // step)

    known = range(finest, max(level or 0 for level in RESOLUTIONS.values()) + 1)
    grids = [grid_of(max(level, finest)) for level in range(known.stop)]
    level = _nearest_level(_wanted_level(regions, grids, settings, say, finest), known, say)
    step, grid = 2 ** (level - finest), grids[level]
    attending = family.sequence.attending(path for path, _ in base.diffusion_model.named_modules())
    joint = JOINT in attending.values()
    layers = spread_layers(sum(kind == (JOINT if joint else CROSS) for kind in attending.values()))
    cells = _cells_of(regions, grid, 8 * 2**level, x.device, say)
    words = [one.positions for one in drawn]
    return MapPlaces(
        layers,
        step * latent.patch,
        8 * 2**level,
        grid,
        cells,
        lambda: JointMapRecorder(layers, cells, words, regions, isolation, step, joint),
    )


def _wanted_level(
    regions: Sequence,
    grids: Sequence[tuple[int, int]],
    settings: GuidanceSettings,
    say: Say,
    finest: int = 0,
) -> int:
    """The chosen resolution as a level: how often 8 pixels are doubled. finest: that the model has,
    for a choice that is left to the node."""
    level = RESOLUTIONS[settings.resolution]
    if level is not None:
        return level
    level = max(finest, choose_level(regions, grids, PUBLISHED_LEVEL, LEAST_CELLS))
    if level == 0:
        say(
            "A region is so small that attention maps of 1/8 of the picture are used, "
            "which take about 17 times the memory of the published 1/32. Make it larger, "
            "or choose attention_maps."
        )
    return level


def _nearest_level(wanted: int, levels: Sequence[int], say: Say) -> int:
    if wanted in levels:
        return wanted
    level = min(levels, key=lambda known: (abs(known - wanted), known))
    say(
        f"No layer of this model has attention maps of 1/{8 * 2**wanted} of the picture; "
        f"those of 1/{8 * 2**level} are used."
    )
    return level


def _cells_of(
    regions: Sequence, grid: tuple[int, int], pixels: int, device: torch.device, say: Say
) -> list[RegionCells | None]:
    cells = [region_cells(region, *grid) for region in regions]
    for region, own in zip(regions, cells, strict=True):
        if own is None:
            say(
                f"The region '{region.name}' is smaller than every cell of the attention maps "
                f"({pixels} pixels); it is not guided. Make it larger, or choose finer "
                "attention_maps."
            )
    return [own and own.to(device) for own in cells]


def layer_levels(config: Mapping) -> tuple[int, ...]:
    """How often the picture's feature map has been halved in each layer of a UNet."""
    return tuple(layer.level for layer in family_of(config)[1])


def map_layers(layers: Sequence[AttentionLayer], levels: Sequence[int], level: int) -> list[int]:
    """Running numbers of the layers whose maps are looked at: those of the level; where a spatial
    transformer has many blocks (SDXL), the middle one of each."""
    own = [layer.index for layer in layers if levels[layer.index] == level]
    if len(own) <= MOST_LAYERS:
        return own
    spatial: dict[str, list[int]] = {}
    for index in own:
        spatial.setdefault(layers[index].path.split(BLOCKS)[0], []).append(index)
    return [blocks[len(blocks) // 2] for blocks in spatial.values()]


def spread_layers(count: int) -> list[int]:
    """Numbers of the layers of a transformer with `count` of them whose maps are looked at: at most
    MOST_LAYERS, evenly from FROM to UNTIL of its depth."""
    first, last = math.floor(FROM * count), max(math.ceil(UNTIL * count) - 1, 0)
    first = min(first, last)
    number = min(MOST_LAYERS, last - first + 1)
    steps = max(number - 1, 1)
    return sorted({round(first + i * (last - first) / steps) for i in range(number)})
