"""The settings of one fusion: PUBLISHED (Mix-of-Show, section 4.1) and RECOMMENDED."""

import dataclasses
from dataclasses import dataclass, replace

from ..errors import FuseError
from .solve import SOLVERS

TEXT_PROMPTS = ("photo of a {}", "{}")  # published: what the text stages see of a concept
PICTURE_PROMPTS = TEXT_PROMPTS[:1]  # published: what is sampled for the other layers
REFINE_PROMPTS = (  # not published; of many kinds, because at high noise few rows are memorised
    "photo of a {}",
    "a {}",
    "a close-up photo of a {}",
    "a {} on the beach",
    "a {} in the snow",
    "a {} in a city at night",
    "a {} in a forest",
    "a {} in a room",
    "a painting of a {}",
    "a drawing of a {}",
    "a {}, white background",
    "a {}, black background",
)
PRIOR_PROMPTS = (  # what the base model is to keep in it, unless anchor_prompts say so
    "",
    "photo of a man",
    "photo of a woman",
    "a child on the beach",
    "photo of a dog",
    "a cat in a room",
    "a bird in a forest",
    "a car in a city",
    "a house in the snow",
    "a landscape",
    "a painting of a ship",
    "a table with food",
)
TEXT_ROWS = ("concept tokens", "all tokens")


@dataclass(frozen=True)
class FuseSettings:
    solver: str = "exact"  # one of SOLVERS
    ridge: float = 0.0  # relative to the mean eigenvalue of a layer's G
    steps: int = 20
    width: int = 512
    height: int = 512
    seed: int = 0
    text_rows: str = "concept tokens"  # one of TEXT_ROWS; the first is the published choice
    prompts: tuple[str, ...] = ()  # with {} for a concept's tokens; none: the published ones
    anchor: float = 0.0  # weight of the base model's own features, 1: as one more concept
    anchor_prompts: tuple[str, ...] = ("",)
    reuse_sums: bool = False  # rows of a concept from its own model alone, so that they can be kept
    refine_steps: int = 0  # for each concept and the base model; not published: see refine.py
    memory_limit: float = 0.0  # GiB of the sums at once; 0: what is free
    convolutions: bool = True  # those larger than one cell, where concepts change them

    @property
    def text_prompts(self) -> tuple[str, ...]:
        """What the text stages see of a concept."""
        return self.prompts or TEXT_PROMPTS

    @property
    def picture_prompts(self) -> tuple[str, ...]:
        """What is sampled of a concept."""
        return self.prompts or PICTURE_PROMPTS

    @property
    def refine_prompts(self) -> tuple[str, ...]:
        """What the refinement shows of a concept."""
        return self.prompts or REFINE_PROMPTS

    @property
    def prior_prompts(self) -> tuple[str, ...]:
        """What the refinement shows of the base model."""
        return PRIOR_PROMPTS if not any(self.anchor_prompts) else self.anchor_prompts

    def check(self) -> None:
        """Raises FuseError for a value out of its range."""
        if self.solver not in SOLVERS:
            raise FuseError(f"solver is {self.solver!r}; choose one of {tuple(SOLVERS)}")
        if self.text_rows not in TEXT_ROWS:
            raise FuseError(f"text_rows is {self.text_rows!r}; choose one of {TEXT_ROWS}")
        if not 0 <= self.ridge <= 1e6 or not 1 <= self.steps <= 1000:
            raise FuseError("ridge must be between 0 and 1e6, steps between 1 and 1000")
        if min(self.width, self.height) < 64 or self.width % 8 or self.height % 8:
            raise FuseError("width and height must be at least 64 and multiples of 8")
        for prompt in self.prompts:
            if "{}" not in prompt:
                raise FuseError(
                    f"the prompt {prompt!r} has no {{}}; every line of 'prompts' needs {{}} where "
                    "the concept's tokens are to stand, e.g. photo of a {}"
                )
        if not 0 <= self.refine_steps <= 100_000:
            raise FuseError("refine_steps must be between 0 and 100000")
        if not 0 <= self.anchor <= 1e6:
            raise FuseError("anchor must be between 0 and 1e6")
        if not 0 <= self.memory_limit <= 1e6:
            raise FuseError("memory_limit must be between 0 (what is free) and 1e6 GiB")
        if self.anchor and not self.anchor_prompts:
            raise FuseError("an anchor needs at least one line in 'anchor_prompts'")

    def as_metadata(self) -> dict:
        """JSON-able."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


PUBLISHED = FuseSettings()
RECOMMENDED = replace(PUBLISHED, ridge=0.02, text_rows=TEXT_ROWS[1], refine_steps=100)
