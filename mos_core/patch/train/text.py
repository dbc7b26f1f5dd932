"""Captions through ComfyUI's text encoder, with gradients for a concept's embeddings."""

from collections.abc import Mapping, Sequence

import torch

from ...errors import MosError
from ...text.layerwise import expand_layers, widen
from ...text.tokenizer import ConceptTokenizer, concept_table
from ...text.vocabulary import Vocabulary
from ...train.session import Texts
from ...train.trainable import TrainableConcept
from ..text.layerwise_clip import vocabulary_of


class TrainableText:
    """The text encoder of an open session. clip: a comfy.sd.CLIP, its weights loaded."""

    def __init__(self, clip, trainable: TrainableConcept):
        self.text = clip.cond_stage_model
        self.clip_skip = clip.layer_idx
        self.trainable = trainable
        self.tokenizer = session_tokenizer(clip, trainable)

    def encode(self, captions: Sequence[str]) -> Texts:
        """Equal captions are encoded once."""
        unique = list(dict.fromkeys(captions))
        tables = self.trainable.tables()
        tokenised = [self.tokenise(text, tables) for text in unique]
        sections = max(len(chunks) for chunks in tokenised)
        empty = self.tokenise("", tables)[0]
        chunks = [c for t in tokenised for c in t + [empty] * (sections - len(t))]
        expanded, index = expand_layers(chunks, self.trainable.layers)
        encoder = getattr(self.text, self.text.clip)
        encoder.reset_clip_options()
        if self.clip_skip is not None:
            encoder.set_clip_options({"layer": self.clip_skip})
        rows = encoder([[pair[0] for pair in chunk] for chunk in expanded])[0]
        wide = widen(rows.flatten(0, 1)[None], index).unflatten(1, (len(unique), -1))[0]
        select = torch.stack([self.positions(c) for c in chunks]).to(wide.device)
        select = select.unflatten(0, (len(unique), sections)).transpose(1, 2).flatten(2)
        order = [unique.index(text) for text in captions]
        return Texts(wide[order], None, select[order])

    def tokenise(self, text: str, tables: Mapping[str, torch.Tensor]) -> list:
        """ComfyUI's chunks of (token, weight), concept tokens carrying the trainable tables."""
        chunks = self.tokenizer.tokenize_with_weights(text)[self.text.clip_name]
        return [[(self.with_table(t[0], tables), *t[1:]) for t in chunk] for chunk in chunks]

    @staticmethod
    def with_table(token, tables: Mapping[str, torch.Tensor]):
        name = getattr(concept_table(token), "mos_name", None)
        if name is None:
            return token
        token = token.detach().clone()
        token.mos_table, token.mos_name = tables[name], name
        return token

    def positions(self, chunk) -> torch.Tensor:
        """(concept tokens, tokens of the chunk): 1 where the concept token stands."""
        names = [getattr(pair[0], "mos_name", None) for pair in chunk]
        return torch.tensor([[float(n == t) for n in names] for t in self.trainable.tokens])


def session_tokenizer(clip, trainable: TrainableConcept) -> ConceptTokenizer:
    """The CLIP's tokenizer with the trained tokens; their placeholder tables carry their name."""
    known = vocabulary_of(clip)
    tables = {}
    for token, start in trainable.embeddings.items():
        tables[token] = torch.zeros(trainable.layers, start.shape[-1])
        tables[token].mos_name = token
    owners = dict.fromkeys(tables, "the concept to train")
    base = clip.tokenizer.base if isinstance(clip.tokenizer, ConceptTokenizer) else clip.tokenizer
    both = {"clip_l": {**known.tables.get("clip_l", {}), **tables}}
    vocabulary = Vocabulary(both, {**known.owners, **owners})
    return ConceptTokenizer(base, vocabulary)


def word_embedding(clip, word: str) -> torch.Tensor:
    """(width,) float32: the text encoder's embedding of a word that is one token.

    Raises MosError for a word of several tokens.
    """
    encoder = getattr(clip.cond_stage_model, clip.cond_stage_model.clip)
    inner = getattr(clip.tokenizer, clip.cond_stage_model.clip).tokenizer
    ids = inner(word)["input_ids"][1:-1]
    if len(ids) != 1 or not isinstance(ids[0], int):
        raise MosError(
            f"the initialiser '{word}' is {len(ids)} tokens, or a concept token; use a word that "
            "is one token, such as 'man', 'dog' or 'car', or a random start like <rand-0.013>"
        )
    table = encoder.transformer.get_input_embeddings()
    with torch.inference_mode(False), torch.no_grad():
        row = table(torch.tensor(ids, device=table.weight.device), out_dtype=torch.float32)[0]
        return row.clone().cpu()
