"""Prompts of a fusion: encoded in batches, and where their concepts stand."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ...families import Family
from ...text.tokenizer import concept_table

END_TOKEN = 49407  # of both of CLIP's tokenizers
TOGETHER = 4  # pictures that are sampled in one batch
SECTION = 77  # tokens


def batch_size(family: Family) -> int:
    """How many prompts are sampled together: one where texts have lengths of their own."""
    clip = all(encoder.key.startswith("clip_") for encoder in family.texts)
    return TOGETHER if clip else 1


def encoded(coder: Any, prompt: str) -> tuple[torch.Tensor, dict]:
    """The prompt as one conditioning: text (1, tokens, width) and what else it holds."""
    cond, extras = coder.encode_from_tokens_scheduled(coder.tokenize(prompt), show_pbar=False)[0]
    return cond, extras


def encoded_together(coder: Any, prompts: Sequence[str]) -> list:
    """One conditioning, a prompt for each picture of a batch; shorter ones are repeated."""
    entries = [encoded(coder, prompt) for prompt in prompts]
    longest = max(cond.shape[1] for cond, _ in entries)
    conds = [cond.repeat(1, longest // cond.shape[1], 1) for cond, _ in entries]
    extras = dict(entries[0][1])
    if extras.get("pooled_output") is not None:
        extras["pooled_output"] = torch.cat([more["pooled_output"] for _, more in entries])
    return [torch.cat(conds), extras]


def section_lengths(sections: Sequence[Sequence]) -> list[int]:
    """Tokens up to the first end token, with it, of each section as an encoder sees it."""
    return [end_position(section) + 1 for section in sections]


def end_position(section: Sequence) -> int:
    return next(i for i, token in enumerate(section) if is_end(token))


def is_end(token: Any) -> bool:
    return isinstance(token, int) and token == END_TOKEN


def positions(tokens: Mapping[str, Sequence]) -> list[int]:
    """Positions in the encoded prompt of the concept tokens and of the first end token behind
    them; of all words up to their end where no concept has a token of its own."""
    sections = [[pair[0] for pair in section] for section in next(iter(tokens.values()))]
    marked = [
        [i for i, token in enumerate(section) if concept_table(token) is not None]
        for section in sections
    ]
    found = []
    for number, (section, own) in enumerate(zip(sections, marked, strict=True)):
        end = end_position(section)
        if not any(marked):
            own = list(range(end))
        if own:
            found += [number * SECTION + place for place in (*own, end)]
    return found
