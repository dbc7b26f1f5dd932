"""Layer-wise text on the CLIP's side: the stock text encode node emits wide conditionings."""

import comfy.patcher_extension

from ...text.layerwise import expand_layers, widen
from ...text.tokenizer import ConceptTokenizer
from ...text.vocabulary import Vocabulary
from .layerwise_model import mark_conditioning

KEY = "mix_of_show_layerwise"
METHOD = "encode_token_weights"


class LayerwiseEncode:
    """Stands in for the text encoder's `encode_token_weights` while our CLIP is the active one.

    prior: what stood in before (another pack's object patch), or None for the encoder's own.
    """

    def __init__(self, model, layers: int, prior=None):
        self.model = model  # the text encoder module, e.g. SD1ClipModel
        self.layers = layers
        self.prior = prior

    def __deepcopy__(self, memo):
        return self

    def encode_stock(self, tokens: dict):
        if self.prior is not None:
            return self.prior(tokens)
        return type(self.model).encode_token_weights(self.model, tokens)

    def __call__(self, tokens: dict):
        """{clip name: chunks} -> (wide cond (1, tokens, layers * width), pooled, extras)."""
        name = self.model.clip_name
        expanded, index = expand_layers(tokens[name], self.layers)
        cond, pooled, *extra = self.encode_stock({**tokens, name: expanded})
        extras = {**(extra[0] if extra else {}), **mark_conditioning(self.layers)}
        return widen(cond, index), pooled, extras


def rebind_on_clone(patcher, clone) -> None:
    """ON_CLONE callback: newer ComfyUI may give a clone another module."""
    encode = clone.object_patches.get(METHOD)
    if isinstance(encode, LayerwiseEncode) and encode.model is not clone.model:
        clone.add_object_patch(METHOD, LayerwiseEncode(clone.model, encode.layers, encode.prior))


def add_vocabulary(clip, vocabulary: Vocabulary) -> None:
    """Makes `clip` (a clone of ours) read and encode the concept tokens of `vocabulary`."""
    base = clip.tokenizer.base if isinstance(clip.tokenizer, ConceptTokenizer) else clip.tokenizer
    clip.tokenizer = ConceptTokenizer(base, vocabulary)
    patcher = clip.patcher
    prior = patcher.object_patches.get(METHOD)
    if isinstance(prior, LayerwiseEncode):
        prior = prior.prior
    encode = LayerwiseEncode(patcher.model, vocabulary.layers, prior)
    patcher.add_object_patch(METHOD, encode)
    on_clone = comfy.patcher_extension.CallbacksMP.ON_CLONE
    if not patcher.get_callbacks(on_clone, KEY):
        patcher.add_callback_with_key(on_clone, KEY, rebind_on_clone)


def vocabulary_of(clip) -> Vocabulary:
    """The concept tokens that a CLIP already knows (empty for a stock one)."""
    known = isinstance(clip.tokenizer, ConceptTokenizer)
    return clip.tokenizer.vocabulary if known else Vocabulary({}, {})
