"""The settings of one training run: PUBLISHED (Mix-of-Show, section 4.1) and RECOMMENDED."""

import dataclasses
import math
from dataclasses import dataclass

from ..errors import TrainError

REGULARISATION = ("off", "whole object", "part of the object")
ATTENTION, LINEAR, CONVOLUTIONS = "attention", "all linear", "linear and convolution"
LAYERS = (ATTENTION, LINEAR, CONVOLUTIONS)
MASKED_LOSS = ("mask", "whole picture")
SHAPES = ("square", "as the image")
ROWS = ("auto", "every layer", "every block")  # a block: one spatial transformer


@dataclass(frozen=True)
class TrainSettings:
    """Everything that decides a run besides pictures, captions and models."""

    steps: int = 800
    batch_size: int = 2
    accumulation: int = 1
    rank: int = 4
    layers: str = "attention"  # one of LAYERS
    rate_embedding: float = 1e-3  # 0 leaves the part untrained
    rate_text: float = 1e-5
    rate_unet: float = 1e-4
    layerwise: bool = True  # False: one embedding for all layers (plain textual inversion)
    noise_offset: float = 0.01  # "crucial for identity"
    regularisation: str = "off"  # one of REGULARISATION
    regularisation_weight: float = 0.01
    embedding_norm: float = 0.55  # embeddings freeze once their mean norm is here; 0: never
    masked_loss: str = "mask"  # one of MASKED_LOSS
    shuffle_captions: bool = True
    views: int = 2  # per picture: 1 is the whole picture, more add random crops
    resolution: int = 512  # of the short side, pixels
    shape: str = "square"  # of the views, one of SHAPES
    rows: str = "auto"  # what has an embedding of its own, one of ROWS; auto: every block of SDXL
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    checkpointing: bool = False
    dtype: str = "auto"
    seed: int = 0

    def check(self) -> None:
        """Raises TrainError for a value out of its range."""
        ranges = {
            "steps": (1, 1_000_000), "batch_size": (1, 1024), "accumulation": (1, 1024),
            "rank": (1, 1024), "rate_embedding": (0, 1), "rate_text": (0, 1), "rate_unet": (0, 1),
            "noise_offset": (0, 1), "regularisation_weight": (0, 10), "embedding_norm": (0, 1e6),
            "views": (1, 64), "resolution": (64, 4096), "weight_decay": (0, 1),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if not math.isfinite(value) or not low <= value <= high:
                raise TrainError(f"{name} is {value}; it must be between {low} and {high}")
        if self.resolution % 8:
            raise TrainError(f"resolution is {self.resolution}; it must be a multiple of 8")
        for name, choices in (
            ("regularisation", REGULARISATION),
            ("layers", LAYERS),
            ("masked_loss", MASKED_LOSS),
            ("shape", SHAPES),
            ("rows", ROWS),
        ):
            if getattr(self, name) not in choices:
                raise TrainError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")
        if not any((self.rate_embedding, self.rate_text, self.rate_unet)):
            raise TrainError("all three learning rates are 0, so nothing would be trained")

    def as_metadata(self) -> dict:
        return dataclasses.asdict(self)


PUBLISHED = TrainSettings()
RECOMMENDED = PUBLISHED
