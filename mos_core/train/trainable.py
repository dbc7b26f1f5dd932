"""What is trained: embeddings and LoRA factors as parameters, to and from a Concept."""

from collections.abc import Mapping, Sequence

import torch

from ..errors import TrainError
from ..families.unet import architecture_by_layers
from ..records import Concept, LowRank
from .settings import TrainSettings

EMB, TEXT, UNET = "emb.", "text_encoder.", "unet."
FILE_ENTRY = 256  # bytes that name one tensor in a file's header
DOWN, UP = ".lora_down.weight", ".lora_up.weight"


class TrainableConcept:
    """The parameters of one concept, float32.

    embeddings: token -> (layers, width), or (1, width) if one embedding serves all layers.
    text, unet: module -> LowRank of parameters.
    """

    def __init__(
        self,
        embeddings: Mapping[str, torch.Tensor],
        text: Mapping[str, LowRank],
        unet: Mapping[str, LowRank],
        layers: int,
    ):
        self.embeddings = {t: as_parameter(e) for t, e in embeddings.items()}
        self.text = {m: LowRank(as_parameter(p.down), as_parameter(p.up)) for m, p in text.items()}
        self.unet = {m: LowRank(as_parameter(p.down), as_parameter(p.up)) for m, p in unet.items()}
        self.layers = layers

    @property
    def tokens(self) -> tuple[str, ...]:
        return tuple(self.embeddings)

    def tables(self) -> dict[str, torch.Tensor]:
        """Token -> (layers, width), differentiable."""
        return {t: e.expand(self.layers, -1) for t, e in self.embeddings.items()}

    def embedding_norm(self) -> float:
        with torch.no_grad():
            return torch.cat(list(self.embeddings.values())).norm(dim=-1).mean().item()

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All parameters by the names they have in our file."""
        named = {EMB + token: table for token, table in self.embeddings.items()}
        for prefix, factors in ((TEXT, self.text), (UNET, self.unet)):
            for module, pair in factors.items():
                named[prefix + module + DOWN] = pair.down
                named[prefix + module + UP] = pair.up
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

        def pairs(factors: Mapping[str, LowRank]) -> dict[str, LowRank]:
            return {m: LowRank(copy(p.down), copy(p.up)) for m, p in factors.items()}

        return Concept.edlora(
            name,
            {t: copy(e) for t, e in self.tables().items()},
            pairs(self.text),
            pairs(self.unet),
            architecture_by_layers(self.layers).name,
            dict(metadata),
            resume,
        )


def as_parameter(tensor: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(tensor.detach().clone().float())


def fresh_factors(
    shapes: Mapping[str, tuple[int, ...]], rank: int, generator: torch.Generator
) -> dict[str, LowRank]:
    """New factors whose delta is zero: down random (kaiming uniform), up zero.

    shapes: module -> shape of its weight, (out, in) or (out, in, 1, 1).
    """
    factors = {}
    for module, (out, width, *ones) in shapes.items():
        bound = width**-0.5
        down = (torch.rand(rank, width, *ones, generator=generator) * 2 - 1) * bound
        factors[module] = LowRank(down, torch.zeros(out, rank, *ones))
    return factors


def make_trainable(
    tables: Mapping[str, torch.Tensor],
    text_shapes: Mapping[str, tuple[int, ...]],
    unet_shapes: Mapping[str, tuple[int, ...]],
    settings: TrainSettings,
    layers: int,
    resume: Concept | None = None,
) -> TrainableConcept:
    """Parameters for a new concept (tables: token -> (width,) start), or to go on with one."""
    generator = torch.Generator().manual_seed(settings.seed)
    text = fresh_factors(text_shapes if settings.rate_text else {}, settings.rank, generator)
    unet = fresh_factors(unet_shapes if settings.rate_unet else {}, settings.rank, generator)
    rows = layers if settings.layerwise else 1
    embeddings = {t: start[None].repeat(rows, 1) for t, start in tables.items()}
    if resume is not None:
        embeddings = {t: e[:rows] for t, e in resume.embeddings.items()}
        # Modules that the concept lacks start fresh; modules that are not trained stay applied.
        text, unet = {**text, **resume.text}, {**unet, **resume.unet}
    return TrainableConcept(embeddings, text, unet, layers)


def start_embeddings(
    tokens: Sequence[str],
    initializer: str,
    word_embedding,
    width: int,
    seed: int,
) -> dict[str, torch.Tensor]:
    """token -> (width,) start values.

    initializer: one entry per token, by spaces: `<rand-0.013>` (normal of that deviation) or a
    word. word_embedding: word -> (width,), raises TrainError unless it is one token.
    """
    entries = initializer.split()
    if len(entries) != len(tokens):
        raise TrainError(
            f"there are {len(entries)} initialisers ('{initializer}') for {len(tokens)} concept "
            f"tokens ({' '.join(tokens)}); give one per token, as in '<rand-0.013> man'"
        )
    generator = torch.Generator().manual_seed(seed)
    starts = {}
    for token, entry in zip(tokens, entries, strict=True):
        if entry.startswith("<rand-") and entry.endswith(">"):
            try:
                deviation = float(entry[len("<rand-") : -1])
            except ValueError:
                deviation = -1.0
            if not 0 <= deviation <= 10:
                raise TrainError(f"'{entry}' is no initialiser; write it like <rand-0.013>")
            starts[token] = torch.randn(width, generator=generator) * deviation
        else:
            starts[token] = word_embedding(entry)
    return starts


def parse_tokens(text: str) -> tuple[str, ...]:
    """'<potter1> <potter2>' -> ('<potter1>', '<potter2>'). Raises TrainError."""
    tokens = tuple(text.split())
    for token in tokens:
        if len(token) < 3 or token[0] != "<" or token[-1] != ">" or set(token) & set("()\\:"):
            raise TrainError(
                f"'{token}' cannot be a concept token; tokens look like <potter1>: in angle "
                "brackets, without round brackets, colons or backslashes"
            )
    if not tokens or len({t.casefold() for t in tokens}) != len(tokens):
        raise TrainError(f"give one or more different concept tokens; found '{text}'")
    return tokens
