"""Captions through ComfyUI's text encoders, with gradients for a concept's embeddings."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch

from ...errors import TrainError
from ...families import Family
from ...text.layerwise import expand_rows, widen
from ...text.tokenizer import ConceptTokenizer, concept_table, concept_word
from ...text.vocabulary import Vocabulary
from ...train.session import Texts
from ...train.trainable import TrainableConcept
from ..text.layerwise_clip import POOLED, stock_tokenizer, vocabulary_of

CAPTIONS = 256  # encoded captions that are kept where nothing of them is trained


class ClipText:
    """CLIP's text encoders of an open session. clip: a comfy.sd.CLIP, its weights loaded."""

    def __init__(self, clip: Any, family: Family, trainable: TrainableConcept):
        self.text = clip.cond_stage_model
        self.clip_skip = clip.layer_idx
        self.trainable = trainable
        self.encoders = {encoder.tokens: encoder.key for encoder in family.texts}
        self.tokenizer = session_tokenizer(clip, trainable)

    def encode(self, captions: Sequence[str]) -> Texts:
        """Equal captions are encoded once."""
        unique = list(dict.fromkeys(captions))
        tokenised, count = self.tokenise(unique)
        rows = self.trainable.rows if self.trainable.tokens else 1
        expanded, index = expand_rows(tokenised, rows)
        firsts = {name: own[::count] for name, own in tokenised.items()}  # for the pooled text
        crosses, pooled = [], None
        self.set_options()
        for name, own in expanded.items():
            extra = firsts[name] if name == POOLED else []
            features, last = self.run(name, [*own, *extra])
            crosses.append(features[: len(own)])
            if extra:
                pooled = last[len(own) :]
        width = min(features.shape[1] for features in crosses)
        both = torch.cat([features[:, :width] for features in crosses], -1)
        wide = widen(both.flatten(0, 1)[None], index).unflatten(1, (len(unique), -1))[0]
        order = [unique.index(text) for text in captions]
        select = self.positions(next(iter(tokenised.values()))).to(wide.device)
        select = select.unflatten(0, (len(unique), count)).transpose(1, 2).flatten(2)
        return Texts(
            [
                {
                    "cross_attn": wide[place : place + 1],
                    **({} if pooled is None else {"pooled_output": pooled[place : place + 1]}),
                }
                for place in order
            ],
            select[order],
        )

    def set_options(self) -> None:
        """The CLIP's own layer (CLIP skip)."""
        self.text.reset_clip_options()
        if self.clip_skip is not None:
            self.text.set_clip_options({"layer": self.clip_skip})

    def run(self, name: str, chunks: Sequence) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (sections, tokens, width) and pooled output (sections, width)."""
        encoder = getattr(self.text, self.encoders[name])
        features, pooled, *_ = encoder([[pair[0] for pair in chunk] for chunk in chunks])
        return features, pooled

    def tokenise(self, captions: Sequence[str]) -> tuple[dict[str, list], int]:
        """Entry of a token list -> ComfyUI's sections of (token, weight) of all captions one after
        the other, concept tokens carrying the trainable tables; and how many sections each has."""
        tables = self.trainable.tables()
        tokenised = [self.tokenizer.tokenize_with_weights(caption) for caption in captions]
        empty = self.tokenizer.tokenize_with_weights("")
        count = max(len(own[name]) for own in tokenised for name in self.encoders)
        return {
            name: [
                [(with_table(pair[0], tables[key] if tables else {}), *pair[1:]) for pair in chunk]
                for own in tokenised
                for chunk in own[name] + [empty[name][0]] * (count - len(own[name]))
            ]
            for name, key in self.encoders.items()
        }, count

    def positions(self, chunks: Sequence) -> torch.Tensor:
        """(sections, concept tokens, tokens): 1 where a concept token stands."""
        words = [[concept_word(pair[0]) for pair in chunk] for chunk in chunks]
        tokens = self.trainable.tokens
        marks = [[[float(w == token) for w in own] for token in tokens] for own in words]
        return torch.tensor(marks).reshape(len(chunks), len(tokens), len(words[0]))


class FixedText:
    """A text encoder that is not trained: captions as ComfyUI encodes them, kept."""

    def __init__(self, clip: Any):
        self.clip = clip
        self.encode_one = lru_cache(CAPTIONS)(self._encode_one)

    def encode(self, captions: Sequence[str]) -> Texts:
        rows = [self.encode_one(caption) for caption in captions]
        return Texts(rows, torch.zeros(len(rows), 0, rows[0]["cross_attn"].shape[1]))

    def _encode_one(self, caption: str) -> dict[str, Any]:
        with torch.no_grad():
            tokens = self.clip.tokenize(caption)
            cond, extras = self.clip.encode_from_tokens_scheduled(tokens, show_pbar=False)[0]
            kept = {k: v.clone() if torch.is_tensor(v) else v for k, v in extras.items()}
        return {**kept, "cross_attn": cond.clone()}


def with_table(token: Any, tables: Mapping[str, torch.Tensor]) -> Any:
    """A concept token's placeholder -> the token with its trained table; others as they are."""
    word = concept_word(token) if concept_table(token) is not None else None
    if word is None or word not in tables:
        return token
    table = tables[word]
    made = table.mean(0)  # where rows are not told apart: the pooled text
    made.mos_table, made.mos_word, made.mos_index = table, word, None
    return made


def session_tokenizer(clip: Any, trainable: TrainableConcept) -> Any:
    """The CLIP's tokenizer with the trained tokens, as placeholders."""
    known = vocabulary_of(clip)
    if not trainable.tokens:
        return clip.tokenizer
    tables = {
        encoder: {
            **known.tables.get(encoder, {}),
            **{token: torch.zeros(trainable.rows, t.shape[-1]) for token, t in own.items()},
        }
        for encoder, own in trainable.embeddings.items()
    }
    owners = dict.fromkeys(trainable.tokens, "the concept to train")
    return ConceptTokenizer(stock_tokenizer(clip), Vocabulary(tables, {**known.owners, **owners}))


def word_embedding(clip: Any, encoder: str, word: str) -> torch.Tensor:
    """(width,) float32: a text encoder's embedding of a word that is one token.

    Raises TrainError for a word of several tokens.
    """
    inner = getattr(clip.tokenizer, encoder).tokenizer
    ids = inner(word)["input_ids"][1:-1]
    if len(ids) != 1 or not isinstance(ids[0], int):
        raise TrainError(
            f"the initialiser '{word}' is {len(ids)} tokens, or a concept token; use a word that "
            "is one token, such as 'man', 'dog' or 'car', or a random start like <rand-0.013>"
        )
    table = getattr(clip.cond_stage_model, encoder).transformer.get_input_embeddings()
    with torch.inference_mode(False), torch.no_grad():
        row = table(torch.tensor(ids, device=table.weight.device), out_dtype=torch.float32)[0]
        return row.clone().cpu()
