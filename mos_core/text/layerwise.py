"""Layer-wise text: one encoding per cross-attention layer, side by side in one conditioning.

Frame: a *wide* conditioning is (batch, tokens, layers * text width); columns
[l * width, (l + 1) * width) are what cross-attention layer l reads. A *narrow* one is ComfyUI's
ordinary (batch, tokens, text width). P+ / Mix-of-Show, section "embedding-decomposed LoRA".
"""

import torch

from .tokenizer import concept_table

Chunk = list[tuple]  # one section of 77 (token, weight) pairs


def has_concept(chunk: Chunk) -> bool:
    return any(concept_table(pair[0]) is not None for pair in chunk)


def chunk_for_layer(chunk: Chunk, layer: int) -> Chunk:
    """The chunk with every concept token replaced by its embedding of one layer."""

    def pick(token):
        table = concept_table(token)
        return token if table is None else table[layer]

    return [(pick(pair[0]), *pair[1:]) for pair in chunk]


def expand_layers(chunks: list[Chunk], layers: int) -> tuple[list[Chunk], torch.Tensor]:
    """What must be encoded so that every layer finds its own text.

    Chunks without a concept token are encoded once for all layers. Returns the chunks to encode
    and `index` (layers, chunks): which of them layer l reads at position c.
    """
    expanded: list[Chunk] = []
    index = torch.empty(layers, len(chunks), dtype=torch.long)
    for c, chunk in enumerate(chunks):
        if has_concept(chunk):
            index[:, c] = torch.arange(len(expanded), len(expanded) + layers)
            expanded += [chunk_for_layer(chunk, layer) for layer in range(layers)]
        else:
            index[:, c] = len(expanded)
            expanded.append(chunk)
    return expanded, index


def widen(encoded: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Encoded chunks side by side -> wide conditioning.

    encoded: (1, len(expanded) * tokens, width), as ComfyUI returns it; index: from expand_layers.
    Returns (1, chunks * tokens, layers * width).
    """
    layers, chunks = index.shape
    width = encoded.shape[-1]
    rows = encoded.reshape(int(index.max()) + 1, -1, width)  # (expanded, tokens, width)
    wide = rows[index.to(rows.device)]  # (layers, chunks, tokens, width)
    return wide.flatten(1, 2).permute(1, 0, 2).reshape(1, -1, layers * width)


def split_layers(wide: torch.Tensor, layers: int) -> tuple[torch.Tensor, ...]:
    """Wide (batch, tokens, layers * width) -> per layer a contiguous (batch, tokens, width)."""
    split = wide.unflatten(-1, (layers, -1))  # (batch, tokens, layers, width)
    return tuple(split.permute(2, 0, 1, 3).contiguous().unbind(0))


def layer_mean(wide: torch.Tensor, layers: int) -> torch.Tensor:
    """One narrow text for readers that have no layers of ours (ControlNet): the mean over layers.

    (batch, tokens, layers * width) -> (batch, tokens, width). Equal layers give exactly that layer.
    """
    split = wide.unflatten(-1, (layers, -1))  # (batch, tokens, layers, width)
    first = split[..., :1, :]
    return (first + (split - first).mean(-2, keepdim=True)).squeeze(-2)
