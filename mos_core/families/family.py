"""What a model family is, as tables: the one seam behind which a family lives.

A family is one file beside this one and one line in `FAMILIES`. Nothing here touches a tensor or
ComfyUI; paths and keys are those of ComfyUI's state dicts, which are the names of `records.Site`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

IMAGE, TEXT, BOTH, SAMPLE = "image", "text", "both", "sample"  # streams
WORD = "word"  # stream: several rows for each token of a text
CROSS, JOINT = "cross", "joint"  # kinds of attention layers
ALONE_IMAGE, ALONE_TEXT, ALONE_WORD = "image alone", "text alone", "word alone"  # what else attends
TEXT_ENCODER, KEYS_VALUES, OTHERS = "text encoder", "keys and values", "others"  # stages
ATTENTION, FEED_FORWARD, PROJECTION = "attention", "feed forward", "projection"  # parts
CONVOLUTION, EMBEDDING = "convolution", "embedding"


@dataclass(frozen=True)
class AttentionLayer:
    """One block of the model in which text meets image.

    index: position in running order, 0-based; row `index` of a layer-wise embedding table.
    key: how the running block calls itself in ComfyUI's transformer_options; hashable.
    path: of the block's module, below "diffusion_model.".
    kind: "cross" (image asks text) or "joint" (one sequence of both).
    level: how often the image has been halved where the block runs.
    """

    index: int
    key: Any
    path: str
    kind: str
    level: int


@dataclass(frozen=True)
class Role:
    """What a linear layer or convolution is to a method.

    stream: whose tokens pass through it: "image", "text", "both" (text, then image), "word" (text,
      several rows a token) or "sample" (rows of the picture as a whole: time, guidance, pooled
      text).
    group: layers of one group have the same input (to_k and to_v of a cross-attention).
    stage: when fusion solves it: "text encoder", "keys and values", "others".
    part: what it belongs to: "attention", "feed forward", "projection", "convolution", "embedding".
    """

    stream: str
    group: str
    stage: str
    part: str


@dataclass(frozen=True)
class Encoder:
    """A text encoder of the family.

    key: attribute of ComfyUI's cond_stage_model, and the start of its keys ("clip_l").
    tokens: its entry in a token list ("l"). width: of its embeddings in the full-size model.
    learns_tokens: concept tokens can have embeddings of their own in it.
    """

    key: str
    tokens: str
    width: int
    learns_tokens: bool = True


@dataclass(frozen=True)
class Latent:
    """channels; axes (2: rows and columns, 3: time as well); pixels per cell along a side; patch:
    cells per token along a side."""

    channels: int = 4
    axes: int = 2
    pixels: int = 8
    patch: int = 1


@dataclass(frozen=True)
class TokenSequence:
    """How a diffusion transformer lays out its tokens and where they can be reached.

    attention: pattern of the paths of modules that attend once per call -> what attends there:
      "joint", "cross", "image alone", "text alone" or "word alone". Paths below the model.
    positions: path of the module that is given the tokens' positions, (batch, tokens, axes); empty:
      there is none, or the text has no positions.
    counts_on: the image's first axis goes on counting where the text ends.
    padded_behind: path of the module behind which each text is padded to a multiple of the model's
      `pad_tokens_multiple` with its `cap_pad_token`, and the image alike; empty: never.
    references: reference pictures are tokens behind the image's.
    words: the entry of a token list whose tokens the model's text has; empty: that of the family's
      first text encoder. words_end: tokens are counted from the end of the text, because its
      beginning is cut off (a template) or filled up.
    """

    attention: Mapping[str, str]
    positions: str = ""
    counts_on: bool = False
    padded_behind: str = ""
    references: bool = False
    words: str = ""
    words_end: bool = False

    def attending(self, paths: Iterable[str]) -> dict[str, str]:
        """Those of a model's modules that attend -> what attends there."""
        return {
            path: kind
            for path in paths
            for pattern, kind in self.attention.items()
            if re.fullmatch(pattern, path)
        }


@dataclass(frozen=True)
class Family:
    """A kind of model.

    name: short, as in files; title: as users know it.
    matches: ComfyUI's unet_config -> whether the model is of this family, of any width.
    layers: ComfyUI's unet_config -> its attention layers in running order.
    role: path of a module, as `Site.path` -> its role; None: not this family's.
    texts: the text encoders, the first one's width being that of cross-attention alone if it is
      the only one. latent: the shape of its latents.
    targets: "attention" and "all linear" -> parts of roles that training then changes.
    recompute: classes of blocks worth recomputing in a backward pass.
    file_marks: regular expressions; a LoRA file one of whose module names (dots and underscores
      alike, as "_") has one of them inside is of this family. The first family that says so wins.
    sequence: of a diffusion transformer; None for a UNet, whose feature maps are its tokens.
    layerwise: its concept files may have an embedding per layer.
    """

    name: str
    title: str
    matches: Callable[[Mapping], bool]
    layers: Callable[[Mapping], tuple[AttentionLayer, ...]]
    role: Callable[[str], Role | None]
    texts: tuple[Encoder, ...]
    latent: Latent = Latent()
    targets: Mapping[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "attention": (ATTENTION,),
            "all linear": (ATTENTION, FEED_FORWARD, PROJECTION),
        }
    )
    recompute: tuple[str, ...] = ()
    file_marks: tuple[str, ...] = ()
    sequence: TokenSequence | None = None
    layerwise: bool = False
