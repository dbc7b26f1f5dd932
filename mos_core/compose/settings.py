"""What a user may choose of LoRA-Composer."""

from dataclasses import dataclass, field

from .guidance import GuidanceTerms
from .isolation import Isolation
from .schedule import LARGEST_CHANGE, MAX_STEPS, STEP_SIZE

# The choices of the node -> how often the latent is halved. The published one is 1/32 of the
# picture, which is 1/4 of the latent.
RESOLUTIONS = {"auto": None, "1/8": 0, "1/16": 1, "1/32": 2, "1/64": 3}
PUBLISHED_LEVEL = 2
LEAST_CELLS = 16  # "auto" looks at finer maps while a region has fewer cells than these


@dataclass(frozen=True)
class GuidanceSettings:
    """terms: the loss. step_size: of the first update, latents of unit variance. steps: at most so
    many guided steps. resolution: of the attention maps, a key of RESOLUTIONS. reinitialise: before
    the first step. largest_change: of a step (schedule.LARGEST_CHANGE); 0 is no limit. save_memory:
    compute blocks again in the backward pass; None: where memory is short."""

    terms: GuidanceTerms = field(default_factory=GuidanceTerms)
    step_size: float = STEP_SIZE
    steps: int = MAX_STEPS
    resolution: str = "auto"
    reinitialise: bool = True
    largest_change: float = LARGEST_CHANGE
    save_memory: bool | None = None

    @property
    def updates(self) -> bool:
        """Whether steps are led."""
        return self.steps > 0 and self.step_size > 0 and self.terms.any

    @property
    def acts(self) -> bool:
        """Whether anything is done to the latent at all."""
        return self.updates or self.reinitialise


# What of a concept's delta acts where a layer has no tokens but the picture as a whole.
SKIP, BY_AREA, ALL = "skip", "by area", "all"
PICTURE_LAYERS = (BY_AREA, SKIP, ALL)


@dataclass(frozen=True)
class ComposerSettings:
    """injection: which layers get a concept's delta (injection.py). isolation: regions do not see
    each other in self-attention. background: name of a concept for what lies outside all regions,
    or empty. picture_layers: of PICTURE_LAYERS, for transformers. placement: added to the logits of
    a region's own words (placement.py); 0: nothing. published_overlaps: isolation as the public
    code has it where boxes overlap. border: isolation.Isolation's.
    adapt: the share of the steps after which silhouettes of what was drawn take the regions' place,
    0: never."""

    injection: str = "full"
    isolation: bool = True
    guidance: GuidanceSettings = field(default_factory=GuidanceSettings)
    background: str = ""
    picture_layers: str = BY_AREA
    placement: float = 0.0
    published_overlaps: bool = False
    adapt: float = 0.0
    border: float = 0.0

    @property
    def isolated(self) -> Isolation:
        """What of isolation was chosen."""
        if not self.isolation:
            return Isolation("off")
        return Isolation("reference" if self.published_overlaps else "on", self.border)
