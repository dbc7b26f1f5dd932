"""What the layers of each stage of a fusion see of one subject: a concept, or the base model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import comfy.sample
import comfy.samplers
import torch

from ...families.unet import comfy_text_key
from ...fuse.settings import FuseSettings
from ...fuse.stage import Stage, input_group
from ...fuse.sums import Gram
from ...records import LowRank, WeightedConcept
from ...text.tokenizer import concept_table
from ..host.layer_inputs import recorded_inputs
from ..host.weights import add_deltas, add_full_deltas
from ..text.layerwise_model import add_layerwise_text

END_TOKEN = 49407
TOGETHER = 4  # pictures that are sampled in one batch
Deltas = dict[str, torch.Tensor]  # diffusers module name -> fused delta (out, in)


@dataclass(frozen=True)
class Subject:
    """A concept, or the base model itself, with the prompts that show it."""

    name: str
    read: tuple[str, ...]  # the text stages
    drawn: tuple[str, ...]  # the spatial stage
    refined: tuple[str, ...]  # the refinement
    seed: int
    text: Mapping[str, LowRank]
    unet: Mapping[str, LowRank]
    embeddings: Mapping[str, torch.Tensor]
    strength_model: float = 1.0
    strength_clip: float = 1.0

    @property
    def spatial(self) -> dict[str, LowRank]:
        """Its factors outside the keys and values of cross-attention."""
        return {m: p for m, p in self.unet.items() if not is_key_value(m)}


def subject_of(entry: WeightedConcept, settings: FuseSettings, number: int) -> Subject:
    """The number-th concept of a fusion."""
    concept, words = entry.concept, entry.concept.trigger_words
    read, drawn, refined = (
        tuple(prompt.replace("{}", words) for prompt in prompts)
        for prompts in (settings.read, settings.drawn, settings.refined)
    )
    return Subject(
        concept.name,
        read,
        drawn,
        refined,
        seed_of(settings, number),
        concept.text,
        concept.unet,
        concept.embeddings,
        entry.strength_model,
        entry.strength_clip,
    )


def base_subject(settings: FuseSettings, number: int) -> Subject:
    """The base model on general prompts: what is not to be unlearnt."""
    prompts, seed = settings.anchor_prompts, seed_of(settings, number)
    return Subject("the base model", prompts, prompts, settings.kept, seed, {}, {}, {})


def seed_of(settings: FuseSettings, number: int) -> int:
    """Another one for each subject, unless a subject's sums are to be kept for other fusions."""
    return settings.seed if settings.reuse_sums else settings.seed + number


def text_rows(coder, subject: Subject, stage: Stage, all_tokens: bool) -> dict[str, Gram]:
    """Inputs of the text encoder's layers: the tokens of the prompts in every layer variant,
    unpadded unless `all_tokens`. coder: CLIP without text deltas, knowing all tokens."""
    coder = coder.clone()
    add_deltas(coder.patcher, subject.text, comfy_text_key, subject.strength_clip, subject.name)
    grams = stage.new_grams()
    for prompt in subject.read:
        tokens = coder.tokenize(prompt)
        length = None if all_tokens else end_position(tokens) + 1

        def unpadded(x: torch.Tensor, length=length) -> torch.Tensor:
            return x[:, :length]

        root = coder.cond_stage_model
        with recorded_inputs(root, stage.modules, grams, comfy_text_key, unpadded):
            coder.encode_from_tokens(tokens)
    return grams


def key_value_rows(
    coder, subject: Subject, stage: Stage, architecture, all_tokens: bool
) -> dict[str, Gram]:
    """Inputs of cross-attention's keys and values: the fused text encoder's features of the
    concept tokens and the first end token, of every token if `all_tokens`."""
    layer_of = {
        f"{layer.diffusers}.transformer_blocks.{layer.depth}": layer.index
        for layer in architecture.layers
    }
    grams = stage.new_grams()
    for prompt in subject.read:
        tokens = coder.tokenize(prompt)
        wide = coder.encode_from_tokens(tokens)[0]  # (tokens, layers * width)
        chosen = slice(None) if all_tokens else positions(tokens)
        rows = wide[chosen].unflatten(-1, (len(architecture.layers), -1))
        for group, gram in grams.items():
            gram.add(rows[:, layer_of[group.removesuffix(".attn2.kv")]])
    return grams


def spatial_rows(
    model,
    coder,
    subject: Subject,
    stage: Stage,
    key_of: Callable[[str], str | None],
    keys_values: Deltas | None,
    settings: FuseSettings,
    advance: Callable[[], None],
    noise: torch.Tensor | None = None,
) -> dict[str, Gram]:
    """Inputs of all other layers over a whole sampling of each prompt, without guidance.

    keys_values: the fused ones, None for the subject's own. noise: (prompts, 4, h, w) to start
    from, for tests.
    """
    drawn = model.clone()
    if keys_values is not None:
        add_full_deltas(drawn, keys_values, key_of, "the fused keys and values")
    own = subject.unet if keys_values is None else subject.spatial
    add_deltas(drawn, own, key_of, subject.strength_model, subject.name)
    add_layerwise_text(drawn)
    latent = torch.zeros(len(subject.drawn), 4, settings.height // 8, settings.width // 8)
    if noise is None:
        noise = comfy.sample.prepare_noise(latent, subject.seed)
    grams = stage.new_grams()
    for first in range(0, len(subject.drawn), TOGETHER):
        few = slice(first, first + TOGETHER)
        positive = [encoded_together(coder, subject.drawn[few])]
        with recorded_inputs(model.model, stage.modules, grams, key_of):
            comfy.sample.sample_custom(
                drawn,
                noise[few],
                1.0,
                comfy.samplers.ksampler("dpmpp_2m"),
                published_sigmas(drawn, settings.steps),
                positive,
                positive,
                latent[few],
                callback=lambda *args: advance(),
                disable_pbar=True,
            )
    return grams


def samplings(prompts: Sequence[str]) -> int:
    """How many times prompts are sampled, a few at a time."""
    return -(-len(prompts) // TOGETHER)


def encoded_together(coder, prompts) -> list:
    """One conditioning, a prompt for each picture of a batch; shorter ones are repeated."""
    entries = [
        coder.encode_from_tokens_scheduled(coder.tokenize(prompt), show_pbar=False)[0]
        for prompt in prompts
    ]
    longest = max(cond.shape[1] for cond, _ in entries)
    conds = [cond.repeat(1, longest // cond.shape[1], 1) for cond, _ in entries]
    return [torch.cat(conds), {k: v for k, v in entries[0][1].items() if k != "pooled_output"}]


def is_key_value(module: str) -> bool:
    return input_group(module).endswith(".attn2.kv")


def end_position(tokens: Mapping[str, list]) -> int:
    """Position of the first end token of a one-chunk prompt."""
    (chunks,) = tokens.values()
    return next(i for i, pair in enumerate(chunks[0]) if is_end(pair[0]))


def is_end(token) -> bool:
    return isinstance(token, int) and token == END_TOKEN


def positions(tokens: Mapping[str, list]) -> list[int]:
    """Positions of the concept tokens and of the first end token."""
    (chunks,) = tokens.values()
    marked = [i for i, pair in enumerate(chunks[0]) if concept_table(pair[0]) is not None]
    return [*marked, end_position(tokens)]


def published_sigmas(model, steps: int) -> torch.Tensor:
    """t = 999, 949, .. 50 for 20 steps (evenly spaced, the end left out), then 0."""
    sampling = model.get_model_object("model_sampling")
    times = torch.linspace(0, len(sampling.sigmas) - 1, steps + 1).round().long().flip(0)[:-1]
    return torch.cat([sampling.sigmas.cpu()[times], torch.zeros(1)])
