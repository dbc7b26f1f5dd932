"""What is trained: embeddings and LoRA factors as parameters, to and from a Concept."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..adapters import DOWN, UP, delta_of_factors, factors_of
from ..deltas import LowRank
from ..records import Concept, Site
from .settings import TrainSettings

EMB, TEXT, MODEL = "emb.", "text_encoder", ""  # starts of the parameters' names, by rate
ALONE = "clip_l"  # encoder whose tables go by the token's name alone
FILE_ENTRY = 256  # bytes that name one tensor in a file's header
Tables = Mapping[str, Mapping[str, torch.Tensor]]  # encoder -> token -> (rows, width)


@dataclass(frozen=True)
class Target:
    """A layer that can be trained.

    site: where it is; shape: of its weight, (out, in) or (out, in, rows, columns); text: it belongs
    to a text encoder.
    """

    site: Site
    shape: tuple[int, ...]
    text: bool


class TrainableConcept:
    """The parameters of one concept, float32.

    words: how a prompt calls it; those that have tables are its concept tokens. tables: a single
    row serves all `rows`. factors: module's name in the file -> LowRank of parameters, a
    convolution's `down` with its kernel; sites: where each of them is. family: of the model that it
    is trained on.
    """

    def __init__(
        self,
        words: tuple[str, ...],
        tables: Tables,
        factors: Mapping[str, LowRank],
        sites: Mapping[str, Site],
        rows: int,
        family: str,
    ):
        self.words, self.rows, self.family = words, rows, family
        self.embeddings = {
            encoder: {token: as_parameter(table) for token, table in own.items()}
            for encoder, own in tables.items()
        }
        self.factors = {
            name: LowRank(as_parameter(pair.down), as_parameter(pair.up))
            for name, pair in factors.items()
        }
        self.sites = {name: sites[name] for name in factors}

    @property
    def tokens(self) -> tuple[str, ...]:
        """The words that have embeddings of their own."""
        return tuple(next(iter(self.embeddings.values()), {}))

    def tables(self) -> dict[str, dict[str, torch.Tensor]]:
        """Encoder -> token -> (rows, width), differentiable."""
        return {
            encoder: {token: table.expand(self.rows, -1) for token, table in own.items()}
            for encoder, own in self.embeddings.items()
        }

    def at_sites(self, text: bool) -> dict[Site, LowRank]:
        """The factors of the text encoders, or those of the model."""
        return {
            self.sites[name]: pair
            for name, pair in self.factors.items()
            if name.startswith(TEXT) == text
        }

    def embedding_norm(self, encoder: str) -> float:
        """Mean norm of an encoder's embeddings."""
        with torch.no_grad():
            return torch.cat(list(self.embeddings[encoder].values())).norm(dim=-1).mean().item()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All parameters by the names they have in our file."""
        named: dict[str, torch.nn.Parameter] = {}
        for encoder, own in self.embeddings.items():
            prefix = EMB if list(self.embeddings) == [ALONE] else f"{EMB}{encoder}."
            named |= {prefix + token: table for token, table in own.items()}
        for name, pair in self.factors.items():
            named[name + DOWN], named[name + UP] = pair.down, pair.up
        return named

    def largest_file(self) -> int:
        """Bytes of the concept's file if the run is stopped, values and two moments of each
        parameter; a little more than it takes."""
        tensors = self.parameters().values()
        return 3 * sum(p.numel() * p.element_size() + FILE_ENTRY for p in tensors)

    def to_concept(self, name: str, metadata: Mapping, resume=None) -> Concept:
        """A snapshot on the CPU, independent of further training."""

        def copy(t: torch.Tensor) -> torch.Tensor:
            return t.detach().to("cpu", copy=True).contiguous()

        return Concept(
            name,
            self.words,
            {e: {t: copy(table) for t, table in own.items()} for e, own in self.tables().items()},
            {n: delta_of_factors(copy(p.down), copy(p.up)) for n, p in self.factors.items()},
            self.family,
            dict(metadata),
            resume,
        )


def as_parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.detach().clone().float())


def fresh_factors(
    shapes: Mapping[str, tuple[int, ...]], rank: int, generator: torch.Generator
) -> dict[str, LowRank]:
    """New factors whose delta is zero: down random (kaiming uniform), up zero.

    shapes: module -> shape of its weight, (out, in) or (out, in, rows, columns).
    """
    factors = {}
    for module, (out, width, *kernel) in shapes.items():
        bound = (width * math.prod(kernel)) ** -0.5
        down = (torch.rand(rank, width, *kernel, generator=generator) * 2 - 1) * bound
        factors[module] = LowRank(down, torch.zeros(out, rank, *(1 for _ in kernel)))
    return factors


def make_trainable(
    words: tuple[str, ...],
    starts: Tables,
    targets: Mapping[str, Target],
    settings: TrainSettings,
    rows: int,
    family: str,
    resume: Concept | None = None,
) -> TrainableConcept:
    """Parameters for a new concept, or to go on with one.

    starts: encoder -> token -> (width,); empty for an ordinary LoRA. targets: names in the file ->
    layers, in the order in which they are drawn at random. rows: of the tables.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    rates = {True: settings.rate_text, False: settings.rate_unet}
    shapes = {name: target.shape for name, target in targets.items() if rates[target.text]}
    factors = fresh_factors(shapes, settings.rank, generator)
    count = rows if settings.layerwise else 1
    tables = {
        encoder: {token: start[None].repeat(count, 1) for token, start in own.items()}
        for encoder, own in starts.items()
    }
    if resume is not None:
        words = resume.words
        tables = {
            encoder: {token: table[:count] for token, table in own.items()}
            for encoder, own in resume.tables.items()
        }
        # Modules that the concept lacks start fresh; modules that are not trained stay applied.
        known = {name: factors_of(delta) for name, delta in resume.deltas.items()}
        kept = {name: pair for name, pair in known.items() if pair is not None}
        factors = {**factors, **kept}
    sites = {name: target.site for name, target in targets.items()}
    return TrainableConcept(words, tables, factors, sites, rows, family)
