"""What a node with regions tells when a sampling begins."""

from collections.abc import Iterable
from typing import Any

from ...compose.notes import shape_notes, tile_notes
from ...compose.scene import scene_notes
from ...regions.region import Regions
from ..host.sampling_notes import Sampling, Tell, add_sampling_notes


def tell_at_sampling(
    model: Any, regions: Regions, notes: Iterable[str], tell: Tell, tokens: Iterable[str] = ()
) -> None:
    """Lets `tell` hear all notes of a node when a sampling with `model`, a clone of ours, begins.

    notes: what the node has told already. tokens: those of a composer's concepts, which the prompt
    of the whole picture does not know.
    """
    notes, tokens = tuple(notes), tuple(tokens)

    def check(sampling: Sampling) -> tuple[str, ...]:
        scene: tuple[str, ...] = ()
        if sampling.prompt is not None and sampling.node is not None:
            scene = scene_notes(sampling.prompt, sampling.node, tokens)
        size = sampling.width, sampling.height
        tiles = tile_notes(*size, sampling.number) if regions.regions else ()
        return (*notes, *shape_notes(regions, *size), *tiles, *scene)

    add_sampling_notes(model, "mix_of_show_regions_notes", check, tell)
