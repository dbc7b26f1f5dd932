"""A region as it is drawn: where it lies, which concept it shows and what its text says."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from ..records import Bound
from ..regions.region import Region

# As a text encode node hands it on: entries of a text (1, tokens, width), or wide
# (1, tokens, layers * width), and what belongs to it (pooled text, times, hooks).
Conditioning = Sequence[tuple[torch.Tensor, Mapping]]


@dataclass(frozen=True, eq=False)
class RegionText:
    """A region's two texts. None: it has none of its own, the global prompt (or negative prompt)
    stays."""

    positive: Conditioning | None
    negative: Conditioning | None


@dataclass(frozen=True, eq=False)
class Drawn:
    """One region of a sampling.

    concept: bound to the MODEL that samples, or None: prompts alone. Regions that draw the same
    concept share one object. positions: of the concept's tokens in the region's own positive text,
    for guidance. words: of all words there, for placement.
    """

    region: Region
    text: RegionText
    concept: Bound | None = None
    positions: tuple[int, ...] = ()
    words: tuple[int, ...] = ()
