"""Layer-wise text on the CLIP's side: the stock text encode node emits wide conditionings."""

from __future__ import annotations

from typing import Any

import comfy.patcher_extension
import torch

from ...text.layerwise import expand_rows, has_concept, widen
from ...text.tokenizer import ConceptTokenizer
from ...text.vocabulary import Vocabulary
from .layerwise_model import mark_conditioning

KEY = "mix_of_show_layerwise"
METHOD = "encode_token_weights"
POOLED = "g"  # entry in a token list of the encoder whose pooled output a UNet reads


class LayerwiseEncode:
    """Stands in for the text encoder's `encode_token_weights` while our CLIP is the active one.

    rows: of the concept tokens' tables; 1: conditionings stay narrow. prior: what stood in before
    (another pack's object patch), or None for the encoder's own.
    """

    def __init__(self, model: Any, rows: int, prior: Any = None):
        self.model = model  # the text encoder module, e.g. SD1ClipModel
        self.rows = rows
        self.prior = prior

    def __deepcopy__(self, memo: dict[int, Any]) -> LayerwiseEncode:
        return self

    def encode_stock(self, tokens: dict) -> Any:
        if self.prior is not None:
            return self.prior(tokens)
        return type(self.model).encode_token_weights(self.model, tokens)

    def __call__(self, tokens: dict) -> tuple[torch.Tensor, Any, Any]:
        """{encoder's name: sections} -> (wide cond (1, tokens, rows * width), pooled, extras).

        The pooled output is that of the prompt with the mean of every token's rows.
        """
        expanded, index = expand_rows(tokens, self.rows)
        if POOLED in tokens and any(has_concept(own[0]) for own in tokens.values()):
            expanded = {name: [tokens[name][0], *own] for name, own in expanded.items()}
            index = index + 1
        cond, pooled, *extra = self.encode_stock(expanded)
        extras = extra[0] if extra else {}
        if self.rows > 1:
            extras = {**extras, **mark_conditioning(self.rows)}
        return widen(cond, index), pooled, extras


def rebind_on_clone(patcher: Any, clone: Any) -> None:
    """ON_CLONE callback: newer ComfyUI may give a clone another module."""
    encode = clone.object_patches.get(METHOD)
    if isinstance(encode, LayerwiseEncode) and encode.model is not clone.model:
        clone.add_object_patch(METHOD, LayerwiseEncode(clone.model, encode.rows, encode.prior))


def add_vocabulary(clip: Any, vocabulary: Vocabulary) -> None:
    """Makes `clip` (a clone of ours) read and encode the concept tokens of `vocabulary`."""
    clip.tokenizer = ConceptTokenizer(stock_tokenizer(clip), vocabulary)
    patcher = clip.patcher
    prior = patcher.object_patches.get(METHOD)
    if isinstance(prior, LayerwiseEncode):
        prior = prior.prior
    encode = LayerwiseEncode(patcher.model, vocabulary.rows, prior)
    patcher.add_object_patch(METHOD, encode)
    on_clone = comfy.patcher_extension.CallbacksMP.ON_CLONE
    if not patcher.get_callbacks(on_clone, KEY):
        patcher.add_callback_with_key(on_clone, KEY, rebind_on_clone)


def stock_tokenizer(clip: Any) -> Any:
    """The CLIP's tokenizer without concept tokens."""
    known = isinstance(clip.tokenizer, ConceptTokenizer)
    return clip.tokenizer.base if known else clip.tokenizer


def vocabulary_of(clip: Any) -> Vocabulary:
    """The concept tokens that a CLIP already knows (empty for a stock one)."""
    known = isinstance(clip.tokenizer, ConceptTokenizer)
    return clip.tokenizer.vocabulary if known else Vocabulary({}, {})


def embedding_widths(clip: Any) -> dict[str, int]:
    """Text encoders of CLIP's kind in a CLIP ("clip_l", "clip_g") -> width of their embeddings."""
    widths = {}
    for name in ("clip_l", "clip_g", "clip_h"):
        encoder = getattr(clip.cond_stage_model, name, None)
        if isinstance(encoder, torch.nn.Module):
            widths[name] = encoder.transformer.get_input_embeddings().embedding_dim
    return widths
