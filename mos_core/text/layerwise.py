"""Layer-wise text: one encoding per row of the concepts' tables, side by side in one conditioning.

Frame: a *wide* conditioning is (batch, tokens, rows * text width); columns
[r * width, (r + 1) * width) are row r, and `families.rows` says which row a cross-attention layer
reads (one per layer in SD1.5; SDXL also has one per spatial transformer). A *narrow* one is
ComfyUI's ordinary (batch, tokens, text width). P+ / Mix-of-Show, section "embedding-decomposed
LoRA".
"""

import torch

from .tokenizer import concept_table, table_index

Chunk = list[tuple]  # one section of 77 (token, weight) pairs
Sections = dict[str, list[Chunk]]  # entry of a token list ("l", "g") -> sections, equally many


def has_concept(chunk: Chunk) -> bool:
    return any(concept_table(pair[0]) is not None for pair in chunk)


def chunk_for_row(chunk: Chunk, row: int) -> Chunk:
    """The chunk with every concept token replaced by its embedding of one row."""

    def pick(token):
        table = concept_table(token)
        return token if table is None else table[row]

    return [(pick(pair[0]), *pair[1:]) for pair in chunk]


def expand_rows(sections: Sections, rows: int) -> tuple[Sections, torch.Tensor]:
    """What must be encoded so that every row finds its own text.

    Sections without a concept token are encoded once for all rows, and rows that are equal in all
    concept tokens of a section once for all of these. Returns the sections to encode and `index`
    (rows, sections): which of them row r reads at position c.
    """
    expanded: Sections = {name: [] for name in sections}
    count = len(next(iter(sections.values())))
    index = torch.empty(rows, count, dtype=torch.long)
    place = 0
    for c in range(count):
        known: dict[tuple[int, ...], int] = {}
        chunks = {name: own[c] for name, own in sections.items()}
        for row, distinct in enumerate(distinct_rows(chunks.values(), rows)):
            if distinct not in known:
                known[distinct] = place
                place += 1
                for name, chunk in chunks.items():
                    expanded[name].append(chunk_for_row(chunk, row))
            index[row, c] = known[distinct]
    return expanded, index


def distinct_rows(chunks, rows: int) -> list[tuple[int, ...]]:
    """For each row, which of its tables' distinct rows the chunks' concept tokens have there."""
    indices = [table_index(pair[0], rows) for chunk in chunks for pair in chunk]
    known = [index for index in indices if index is not None]
    return [tuple(index[row] for index in known) for row in range(rows)]


def expand_layers(chunks: list[Chunk], rows: int) -> tuple[list[Chunk], torch.Tensor]:
    """As expand_rows, for a text encoder that stands alone."""
    expanded, index = expand_rows({"": chunks}, rows)
    return expanded[""], index


def widen(encoded: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Encoded sections side by side -> wide conditioning.

    encoded: (1, sections * tokens, width), as ComfyUI returns it; index: from expand_rows, into
    these sections. Returns (1, chunks * tokens, rows * width).
    """
    rows, chunks = index.shape
    width = encoded.shape[-1]
    texts = encoded.reshape(int(index.max()) + 1, -1, width)  # (sections, tokens, width)
    wide = texts[index.to(texts.device)]  # (rows, chunks, tokens, width)
    return wide.flatten(1, 2).permute(1, 0, 2).reshape(1, -1, rows * width)


def split_layers(wide: torch.Tensor, rows: int) -> tuple[torch.Tensor, ...]:
    """Wide (batch, tokens, rows * width) -> per row a contiguous (batch, tokens, width)."""
    split = wide.unflatten(-1, (rows, -1))  # (batch, tokens, rows, width)
    return tuple(split.permute(2, 0, 1, 3).contiguous().unbind(0))


def layer_mean(wide: torch.Tensor, rows: int) -> torch.Tensor:
    """One narrow text for readers that have no layers of ours (ControlNet): the mean over rows.

    (batch, tokens, rows * width) -> (batch, tokens, width). Equal rows give exactly that row.
    """
    split = wide.unflatten(-1, (rows, -1))  # (batch, tokens, rows, width)
    first = split[..., :1, :]
    return (first + (split - first).mean(-2, keepdim=True)).squeeze(-2)
